"""Both package.xml are as the schema of format 3 (REP 149) and ROS's own reader have them.

``ament_xmllint`` fetches the schema; these tests need no network. On the files that are refused
here the schema was seen to agree, but for the licence, whose text it leaves free.
"""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT, ROOT / 'ros_ws/src/jepa_arm_msgs')
DEPENDS = {
    *('build_depend', 'build_export_depend', 'buildtool_depend', 'buildtool_export_depend'),
    *('exec_depend', 'depend', 'doc_depend', 'test_depend', 'conflict', 'replace'),
}
# In their order: the tags, how many there may be, and what their text must match.
TAGS = (
    ({'name'}, (1, 1), r'[a-z](_?[a-z0-9]+)*'),
    ({'version'}, (1, 1), r'(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}'),
    ({'description'}, (1, 1), r'.+'),
    ({'maintainer'}, (1, None), r'.+'),
    ({'license'}, (1, None), r'[\w.+-]+'),
    ({'url'}, (0, None), r'https://\S+'),
    ({'author'}, (0, None), r'.+'),
    (DEPENDS, (0, None), r'[a-z0-9][a-z0-9_-]*'),
    ({'group_depend'}, (0, None), r'\w+'),
    ({'member_of_group'}, (0, None), r'\w+'),
    ({'export'}, (0, 1), r'.*'),
)
EMAIL = r'[-\w%+]+(\.[-\w%+]+)*@[-a-zA-Z0-9%]+(\.[-a-zA-Z0-9%]+)*\.[a-zA-Z]{2,}'
ATTRIBUTES = {
    'maintainer': {'email': EMAIL},
    'author': {'email': EMAIL},
    'url': {'type': 'website|bugtracker|repository'},
    'license': {'file': r'\S+'},
    **{
        tag: {'version_(lt|lte|eq|gte|gt)': r'\d+(\.\d+){0,2}', 'condition': r'.+'}
        for tag in DEPENDS
    },
}
MODEL = (
    '<?xml-model href="http://download.ros.org/schema/package_format3.xsd" '
    'schematypens="http://www.w3.org/2001/XMLSchema"?>'
)


def complaints(text: str) -> list[str]:
    """What the schema would not let pass."""
    root = ElementTree.fromstring(text)
    found = [] if (root.tag, root.attrib) == ('package', {'format': '3'}) else ['not format 3']
    place = {tag: rank for rank, (tags, _, _) in enumerate(TAGS) for tag in tags}
    if unknown := [element.tag for element in root if element.tag not in place]:
        return [*found, f'unknown {unknown}']
    ranks = [place[element.tag] for element in root]
    found += ['wrong order'] * (ranks != sorted(ranks))
    for rank, (tags, (least, most), pattern) in enumerate(TAGS):
        if not least <= ranks.count(rank) <= (most or len(ranks)):
            found.append(f'{ranks.count(rank)} of {min(tags)}')
        for element in (e for e in root if e.tag in tags):
            value = ' '.join((element.text or '').split())
            if not re.fullmatch(pattern, value):
                found.append(f'{element.tag} {value!r}')
            allowed = ATTRIBUTES.get(element.tag, {})
            for key, given in element.attrib.items():
                if not any(
                    re.fullmatch(k, key) and re.fullmatch(p, given) for k, p in allowed.items()
                ):
                    found.append(f'{element.tag} {key}={given!r}')
            if element.tag == 'maintainer' and 'email' not in element.attrib:
                found.append('maintainer without email')
    return found


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_the_schema_lets_our_files_pass(folder):
    text = (folder / 'package.xml').read_text()
    assert complaints(text) == []
    assert text.splitlines()[1] == MODEL, 'ament_xmllint finds the schema there'


@pytest.mark.parametrize(
    ('old', 'new', 'complaint'),
    [
        ('format="3"', 'format="2"', 'not format 3'),
        ('jepa_arm<', 'jepa-arm<', "name 'jepa-arm'"),
        ('0.1.0', '0.1', "version '0.1'"),
        ('users.noreply.github.com', 'localhost', "maintainer email='jepa-arm@localhost'"),
        (' email="jepa-arm@users.noreply.github.com"', '', 'maintainer without email'),
        ('Apache-2.0', 'Apache License 2.0', "license 'Apache License 2.0'"),
        ('<license>Apache-2.0</license>', '', '0 of license'),
        ('<license>', '<url>https://example.com</url><license>', 'wrong order'),
        ('<export>', '<run_depend>rclpy</run_depend><export>', "unknown ['run_depend']"),
        ('<exec_depend>xacro', '<exec_depend version="2">xacro', "exec_depend version='2'"),
    ],
)
def test_what_is_not_in_the_form_is_named(old, new, complaint):
    text = (ROOT / 'package.xml').read_text()
    assert complaint in complaints(text.replace(old, new))


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_the_reader_of_ros_has_nothing_to_warn_of(folder):
    package = pytest.importorskip('catkin_pkg.package')
    warnings: list[str] = []
    read = package.parse_package(str(folder), warnings=warnings)
    assert (read.name, warnings) == (
        ElementTree.parse(folder / 'package.xml').findtext('name'),
        [],
    )


def test_the_licence_is_that_of_the_file_by_its_spdx_name():
    assert (ROOT / 'LICENSE').read_text().split()[:4] == ['Apache', 'License', 'Version', '2.0,']
    for folder in FOLDERS:
        assert ElementTree.parse(folder / 'package.xml').findtext('license') == 'Apache-2.0'
