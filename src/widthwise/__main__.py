"""`python -m widthwise` is `widthwise`."""

from widthwise.cli import main

if __name__ == "__main__":
    main()
