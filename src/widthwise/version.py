"""The version of widthwise."""

VERSION = "0.1.0"
