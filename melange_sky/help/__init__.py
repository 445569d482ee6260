"""The documentation that ships: pages of text, and a reference of every key and field.

`pages/*.md` hold the text, one topic each. `fields/*.yaml` hold what every key of the spec and every
field of a JSON document means, by its path, and nothing that the schema knows already: types, defaults
and bounds of spec keys are read from `melange_sky.spec.schema` when a page is shown. `pages` puts both
together, for `melange-sky help` and for the site under `docs/`.
"""

from melange_sky.help.pages import entries_text, page_text, topics
from melange_sky.help.reference import Style

__all__ = ["Style", "entries_text", "page_text", "topics"]
