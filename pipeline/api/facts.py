"""Facts as commands print them: a mapping that prints as YAML."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from pipeline.config.yaml_files import written


class Facts(dict[str, Any]):
    """Facts by name, as ``--json`` prints them; as text they are YAML, as the command prints them.

    Examples
    --------
    >>> facts = Facts(tiles={"number": 4, "size": [32, 32]})
    >>> print(facts)
    tiles:
      number: 4
      size: [32, 32]
    >>> facts["tiles"]["number"]
    4
    """

    def shown(self) -> dict[str, Any]:
        """Give the facts as people read them; a subclass may put sizes and names into words.

        Returns
        -------
        dict
            From names to what YAML can hold.
        """
        return dict(self)

    def json(self) -> str:
        """Give the facts as JSON, as ``--json`` prints them.

        Returns
        -------
        str
            A JSON object, indented by one space.
        """
        return json.dumps(self, indent=1)

    def __str__(self) -> str:
        return written(self.shown()).rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
