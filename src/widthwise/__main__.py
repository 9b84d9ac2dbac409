"""`python -m widthwise` is `widthwise`."""

from widthwise.app.cli.main import main

if __name__ == "__main__":
    main()
