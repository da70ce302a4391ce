"""``python -m gendurable_py.cli`` is ``gendurable``."""

from . import main

if __name__ == "__main__":
    main()
