# Copyright: the Muster authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sphinx settings of the docs site; scripts/docs builds it, without the network."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

project = "Muster"
copyright = "the Muster authors"
title = "Muster"
html_short_title = "Muster"

extensions = ["sphinx_antsibull_ext"]
exclude_patterns = ["_build"]
default_role = "literal"
pygments_style = "ansible"
highlight_language = "yaml+jinja"

html_theme = "sphinx_ansible_theme"
html_theme_options = {"topbar_links": {}}
html_show_sphinx = False
html_use_index = False
html_copy_source = False
smartquotes = False

ANSIBLE_DOCS = "https://docs.ansible.com/ansible/latest"
ANSIBLE_PAGES = {
    "action_plugins": "plugins/action",
    "callback_plugins": "plugins/callback",
    "become_plugins": "plugins/become",
    "ansible_configuration_settings": "reference_appendices/config",
    "common_return_values": "reference_appendices/common_return_values",
}


def ansible_page(label: str) -> str | None:
    """The address of a page in Ansible's own docs; None for any other label."""
    if found := re.fullmatch(r"ansible_collections\.(\w+)\.(\w+)\.(\w+)", label):
        return f"{ANSIBLE_DOCS}/collections/{found[1]}/{found[2]}/{found[3]}.html"
    return f"{ANSIBLE_DOCS}/{ANSIBLE_PAGES[label]}.html" if label in ANSIBLE_PAGES else None


def link_to_ansible(
    _app: Sphinx, _env: object, node: pending_xref, text: nodes.Element
) -> nodes.Element | None:
    """The generated pages point into Ansible's docs, which an offline build does not have."""
    page = ansible_page(node["reftarget"])
    return nodes.reference("", "", text, internal=False, refuri=page) if page else None


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", link_to_ansible)
