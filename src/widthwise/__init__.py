"""widthwise: train once, cut to any width.

The public names stand in `__init__.pyi`; each is imported when it is first asked for, so that what
needs no torch (`widthwise --help`) does not wait for it.
"""

import lazy_loader

from widthwise.version import VERSION

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = VERSION
