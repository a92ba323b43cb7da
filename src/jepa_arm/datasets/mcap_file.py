"""MCAP files of ROS 2 messages: written atomically, read with checks, recovered if truncated."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import zstandard
from mcap.exceptions import InvalidMagic, McapError
from mcap.records import Channel, Chunk, Footer, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.well_known import MessageEncoding, Profile, SchemaEncoding
from mcap.writer import Writer

from jepa_arm.core.errors import JepaArmError

CHUNK_BYTES = 1_000_000
RECORD_LIMIT = 100_000_000
"""Largest record that is read, in bytes, both before and after decompression."""
DEFAULT_TOPIC_KEY = 'default_topic'
"""Key of the channel metadata that holds the name of a remapped topic before remapping."""

READ_ERRORS = (
    McapError, zstandard.ZstdError, ValueError, LookupError, struct.error, MemoryError,
)  # fmt: skip
"""Exceptions raised when a damaged file is read."""


class RecordingError(JepaArmError, ValueError):
    """Error for an unusable recording; says what was expected and what was found."""


class McapWriter:
    """Writer of an MCAP file that appears as ``path`` only when it is complete.

    Until then it is named ``<path>.partial``. Messages are grouped in compressed (zstd), indexed
    chunks. ``recover`` makes a complete file from the undamaged chunks of a truncated one.

    Attributes:
        path, partial: paths of the complete file and of the file being written.
        counts: number of messages by topic.
    """

    def __init__(self, path: Path, suffix: str = '.partial') -> None:
        """Create the file ``<path><suffix>``.

        Raises:
            FileExistsError: the complete or the partial file exists.
            OSError: the file cannot be created.
        """
        self.path, self.partial = path, path.with_name(path.name + suffix)
        if path.exists():
            raise FileExistsError(f'{path} exists; choose another name')
        try:
            self._stream = self.partial.open('xb')
        except FileExistsError:
            raise FileExistsError(
                f'{self.partial} exists: a recording is running or was interrupted; choose '
                'another name, or recover and remove the file'
            ) from None
        self.counts: Counter[str] = Counter()
        self._topics: dict[int, str] = {}
        self._schemas: dict[str, int] = {}
        self._flushed_bytes = 0
        self._writer = Writer(self._stream, chunk_size=CHUNK_BYTES)
        self._writer.start(Profile.ROS2)

    def add_topic(
        self, topic: str, message_type: str, definition: str, metadata: Mapping[str, str]
    ) -> int:
        """Register a topic and return its channel number.

        Args:
            topic: name of the topic.
            message_type: such as ``std_msgs/msg/String``.
            definition: definitions of the type and all types it contains, in ros2msg format.
            metadata: information for readers, such as the quality of service.
        """
        if message_type not in self._schemas:
            self._schemas[message_type] = self._writer.register_schema(
                message_type, SchemaEncoding.ROS2, definition.encode()
            )
        channel = self._writer.register_channel(
            topic, MessageEncoding.CDR, self._schemas[message_type], dict(metadata)
        )
        self._topics[channel] = topic
        return channel

    def write(self, channel: int, data: bytes, log_time: int, publish_time: int) -> None:
        """Write a serialized message (CDR); times in ns of the system clock."""
        topic = self._topics[channel]
        self._writer.add_message(channel, log_time, data, publish_time, self.counts[topic])
        self.counts[topic] += 1

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Write a metadata record."""
        self._writer.add_metadata(name, dict(values))

    def flush(self) -> None:
        """Finish the current chunk and hand it to the operating system."""
        self._writer.flush()
        if self.counts:
            self._flushed_bytes = self._stream.tell()

    def finish(self) -> None:
        """Write the index and rename the file to ``path``.

        Raises:
            OSError: the disk is full, or a file has appeared at ``path``.
        """
        self._writer.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        if self.path.exists():
            raise FileExistsError(f'{self.path} has appeared meanwhile; see {self.partial}')
        os.replace(self.partial, self.path)

    def abandon(self) -> str:
        """Close the file after an ``OSError`` and return a sentence on what is left of it."""
        with suppress(OSError):  # buffered data that cannot be written
            self._stream.close()
        if not self._flushed_bytes:
            self.partial.unlink(missing_ok=True)
            return 'nothing was kept'
        os.truncate(self.partial, self._flushed_bytes)
        return f'what was recorded before is in {self.partial}: {recovery_hint(self.partial)}'


def recovery_hint(path: Path) -> str:
    """Return the commands that recover the truncated file ``path``."""
    return f'jepa-arm data recover {path} --out WHOLE.mcap, or mcap recover {path} -o WHOLE.mcap'


def recover(source: Path, target: Path) -> Counter[str]:
    """Copy the readable part of ``source`` to the complete file ``target``.

    Returns:
        The number of messages by topic.

    Raises:
        RecordingError: no message can be read.
        OSError: ``source`` is missing or ``target`` exists.
    """
    with source.open('rb') as stream:
        writer = McapWriter(target, '.recovered')  # <target>.partial may be the source
        try:
            _copy_readable(stream, writer)
            if not writer.counts:
                raise RecordingError(f'{source}: expected an MCAP file, found no message in it')
            writer.finish()
        except BaseException:
            writer.abandon()
            writer.partial.unlink(missing_ok=True)
            raise
    return writer.counts


def read_records(stream: IO[bytes]) -> Iterator[McapRecord]:
    """Yield the records of an MCAP file up to its footer, including those inside chunks.

    Raises:
        RecordingError: the file is not MCAP, truncated or damaged, or a record would decompress
            to more than ``RECORD_LIMIT``.
    """
    name = getattr(stream, 'name', 'the file')
    reader = StreamReader(
        stream, emit_chunks=True, validate_crcs=True, record_size_limit=RECORD_LIMIT
    )
    is_complete = False
    try:
        for record in reader.records:
            is_complete = isinstance(record, Footer)
            if isinstance(record, Chunk):
                _check_size(record)
                yield from breakup_chunk(record, validate_crc=True)
            else:
                yield record
    except InvalidMagic:
        problem = 'expected an MCAP file' if stream.tell() <= 8 else _truncation(name)
        raise RecordingError(f'{name}: {problem}') from None
    except READ_ERRORS as error:
        reason = f'{type(error).__name__}: {error}'[:200]
        raise RecordingError(f'{name}: damaged ({reason}); {_truncation(name)}') from None
    if not is_complete:
        raise RecordingError(f'{name}: {_truncation(name)}')


def _check_size(chunk: Chunk) -> None:
    size = chunk.uncompressed_size
    if chunk.compression == 'zstd':
        size = max(size, zstandard.frame_content_size(chunk.data))
    elif chunk.compression:
        raise ValueError(f'expected chunks with zstd or no compression, got {chunk.compression}')
    if size > RECORD_LIMIT:
        raise ValueError(f'expected chunks of at most {RECORD_LIMIT} bytes, got {size}')


def _truncation(name: str) -> str:
    return f'expected a complete MCAP file, this one ends early; {recovery_hint(Path(name))}'


def _copy_readable(stream: IO[bytes], writer: McapWriter) -> None:
    """Copy records up to the first unreadable one."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, int] = {}
    with suppress(RecordingError):
        for record in read_records(stream):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel) and record.id not in channels:
                schema = schemas[record.schema_id]
                channels[record.id] = writer.add_topic(
                    record.topic, schema.name, schema.data.decode(), record.metadata
                )
            elif isinstance(record, Message):
                channel = channels[record.channel_id]
                writer.write(channel, record.data, record.log_time, record.publish_time)
            elif isinstance(record, Metadata):
                writer.add_metadata(record.name, record.metadata)
