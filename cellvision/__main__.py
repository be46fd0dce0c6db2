"""`python -m cellvision COMMAND …`, the same as `cellvision COMMAND …`."""

from cellvision.core.cli import dispatch

if __name__ == "__main__":
    raise SystemExit(dispatch())
