"""How results are shown: table, JSON, HTML."""
