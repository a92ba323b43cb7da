"""MCAP files of ROS 2 messages: written whole or not at all, mended where they were cut off."""

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

CHUNK_BYTES = 1_000_000
RECORD_LIMIT = 100_000_000
"""Bytes of the largest record that is read, also when it is unpacked."""
ROLE = 'role'
"""Metadata of a topic that guard and planner know by another name than usual: the usual one."""

DAMAGE = (
    McapError, zstandard.ZstdError, ValueError, LookupError, struct.error, MemoryError,
)  # fmt: skip
"""What reading a damaged file raises."""


class RecordingError(ValueError):
    """A recording that cannot be used; the message says what was expected and what came."""


class McapFile:
    """A recording in the making: at ``<path>.partial`` until it is whole, then at ``path``.

    Messages are gathered in chunks, which are compressed (zstd) and indexed. A file that was cut
    off holds all chunks that were written until then: ``recover`` makes a whole one of it.

    Attributes:
        path, partial: where the file will be, and is until ``finish``.
        counts: messages by topic.
    """

    def __init__(self, path: Path, suffix: str = '.partial') -> None:
        """Begins the file at ``<path><suffix>``.

        Raises:
            FileExistsError: there is such a file, or one that was cut off.
            OSError: it cannot be made.
        """
        self.path, self.partial = path, path.with_name(path.name + suffix)
        if path.exists():
            raise FileExistsError(f'{path} is there already; give another name')
        try:
            self._stream = self.partial.open('xb')
        except FileExistsError:
            raise FileExistsError(
                f'{self.partial} is there already, of a recording that runs or was cut off; '
                'give another name, or recover and remove it'
            ) from None
        self.counts: Counter[str] = Counter()
        self._topics: dict[int, str] = {}
        self._schemas: dict[str, int] = {}
        self._whole_until = 0
        self._writer = Writer(self._stream, chunk_size=CHUNK_BYTES)
        self._writer.start(Profile.ROS2)

    def add_topic(
        self, topic: str, kind: str, definition: str, metadata: Mapping[str, str]
    ) -> int:
        """The number of a new channel.

        Args:
            topic: its name. kind: of its messages, such as ``std_msgs/msg/String``.
            definition: of ``kind`` in ros2msg form, with what it is made of.
            metadata: for readers, such as the quality of service.
        """
        if kind not in self._schemas:
            data = definition.encode()
            self._schemas[kind] = self._writer.register_schema(kind, SchemaEncoding.ROS2, data)
        channel = self._writer.register_channel(
            topic, MessageEncoding.CDR, self._schemas[kind], dict(metadata)
        )
        self._topics[channel] = topic
        return channel

    def write(self, channel: int, data: bytes, log_time: int, publish_time: int) -> None:
        """Adds a serialized message (CDR); times in ns of the system clock."""
        topic = self._topics[channel]
        self._writer.add_message(channel, log_time, data, publish_time, self.counts[topic])
        self.counts[topic] += 1

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Adds a record of names and values."""
        self._writer.add_metadata(name, dict(values))

    def flush(self) -> None:
        """Ends the chunk and hands all to the operating system."""
        self._writer.flush()
        if self.counts:
            self._whole_until = self._stream.tell()

    def finish(self) -> None:
        """Writes the index and gives the file its name.

        Raises:
            OSError: the disk is full, or a file of that name appeared.
        """
        self._writer.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        if self.path.exists():
            raise FileExistsError(f'{self.path} appeared meanwhile; see {self.partial}')
        os.replace(self.partial, self.path)

    def give_up(self) -> str:
        """Ends the file after an ``OSError``; what is left of it, in words."""
        try:
            self._stream.close()
        except OSError:  # what was still to be written cannot be
            pass
        if not self._whole_until:
            self.partial.unlink(missing_ok=True)
            return 'nothing was kept'
        os.truncate(self.partial, self._whole_until)
        return f'what was recorded before is in {self.partial}: {how_to_mend(self.partial)}'


def how_to_mend(path: Path) -> str:
    """The commands that make a whole file of one that was cut off."""
    return f'jepa-arm recover {path} --out WHOLE.mcap, or mcap recover {path} -o WHOLE.mcap'


def recover(source: Path, target: Path) -> Counter[str]:
    """Copies what can be read of ``source`` into the whole file ``target``; messages by topic.

    Raises:
        RecordingError: nothing can be read of it. OSError: a file is missing or there already.
    """
    with source.open('rb') as stream:
        out = McapFile(target, '.recovered')  # <target>.partial may be the source
        try:
            _copy(stream, out)
            if not out.counts:
                raise RecordingError(f'{source}: expected an MCAP file, found no message in it')
            out.finish()
        except BaseException:
            out.give_up()
            out.partial.unlink(missing_ok=True)
            raise
    return out.counts


def records(stream: IO[bytes]) -> Iterator[McapRecord]:
    """The records of an MCAP file one by one, those in chunks too, to its footer.

    Raises:
        RecordingError: it is no MCAP file, ends before its footer, is damaged, or would unpack
            to more than ``RECORD_LIMIT``.
    """
    name = getattr(stream, 'name', 'the file')
    reader = StreamReader(
        stream, emit_chunks=True, validate_crcs=True, record_size_limit=RECORD_LIMIT
    )
    is_whole = False
    try:
        for record in reader.records:
            is_whole = isinstance(record, Footer)
            if isinstance(record, Chunk):
                _check_size(record)
                yield from breakup_chunk(record, validate_crc=True)
            else:
                yield record
    except InvalidMagic:
        problem = 'expected an MCAP file' if stream.tell() <= 8 else _cut(name)
        raise RecordingError(f'{name}: {problem}') from None
    except DAMAGE as error:
        raise RecordingError(f'{name}: damaged ({_short(error)}); {_cut(name)}') from None
    if not is_whole:
        raise RecordingError(f'{name}: {_cut(name)}')


def _check_size(chunk: Chunk) -> None:
    size = chunk.uncompressed_size
    if chunk.compression == 'zstd':
        size = max(size, zstandard.frame_content_size(chunk.data))
    elif chunk.compression:
        raise ValueError(f'expected chunks packed by zstd or not at all, got {chunk.compression}')
    if size > RECORD_LIMIT:
        raise ValueError(f'expected chunks of at most {RECORD_LIMIT} bytes, got {size}')


def _cut(name: str) -> str:
    return f'expected a whole MCAP file, this one ends early; {how_to_mend(Path(name))}'


def _short(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'[:200]


def _copy(stream: IO[bytes], out: McapFile) -> None:
    """Copies records up to the first that is not whole."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, int] = {}
    with suppress(RecordingError):
        for record in records(stream):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel) and record.id not in channels:
                schema = schemas[record.schema_id]
                channels[record.id] = out.add_topic(
                    record.topic, schema.name, schema.data.decode(), record.metadata
                )
            elif isinstance(record, Message):
                number = channels[record.channel_id]
                out.write(number, record.data, record.log_time, record.publish_time)
            elif isinstance(record, Metadata):
                out.add_metadata(record.name, record.metadata)
