"""The SROS2 policy as sets of full names."""

import xml.etree.ElementTree as ElementTree

from jepa_arm.core.files import config_path


def policy():
    """The root of the policy's XML."""
    return ElementTree.parse(config_path('sros2/policy.xml')).getroot()


def permissions():
    """(node, kind, right) -> full names that the policy allows; kinds are topics, services, ..."""
    allowed = {}
    for profile in policy().iter('profile'):
        node = profile.get('node')
        assert profile.get('ns') == '/'
        for block in profile:
            for right, value in block.attrib.items():
                assert value == 'ALLOW'
                names = {full_name(item.text.strip(), node) for item in block}
                allowed.setdefault((node, block.tag, right), set()).update(names)
    return allowed


def full_name(name, node):
    """``name`` of a policy as the graph of ``node`` (in namespace /) shows it."""
    if name.startswith('~/'):
        return f'/{node}/{name[2:]}'
    return name if name.startswith('/') else f'/{name}'
