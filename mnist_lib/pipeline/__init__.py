"""What keeps records and pages current: staleness, execution, workers, verification."""

import sys

# nbformat imports jsonschema, and that would make parsers of this package for all kinds of addresses: seconds for every
# command, and no notebook holds such an address. Where the package is not installed, jsonschema does without it, too.
sys.modules.setdefault("rfc3987_syntax", None)
