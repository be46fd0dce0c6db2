"""Names of encoders: NAME, NAME@imagenet or NAME@FILE; NAME is `resnet18`, `mlp-64-32`, `transformer-3x64x4` or
`late:image=resnet18+table=mlp-64`. What the numbers mean is the branch's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LARGEST = 16_384  # width or number of layers
DIGITS = 9


@dataclass(frozen=True)
class EncoderName:
    """An `--encoder` text that is no folder."""

    name: str  # without the source
    source: str  # imagenet, a weight file, or nothing

    def is_file(self) -> bool:
        """Whether the weights lie in a file."""
        return bool(self.source) and Path(self.source).is_file()

    @property
    def kind(self) -> str:
        """What stands before the numbers or the parts."""
        return self.name.partition(":")[0] if ":" in self.name else self.name.partition("-")[0]

    def sizes(self, between: str = "-") -> tuple[int, ...]:
        """The numbers behind the kind; none where anything else stands there, a nought, or what nobody could build."""
        texts = self.name.partition("-")[2].split(between)
        numbers = tuple(int(text) for text in texts if text.isdecimal() and len(text) <= DIGITS)
        return numbers if len(numbers) == len(texts) and all(0 < number <= LARGEST for number in numbers) else ()

    def parts(self) -> dict[str, str]:
        """Part -> the name of its encoder."""
        texts = self.name.partition(":")[2].split("+")
        return dict(text.split("=", 1) for text in texts if "=" in text)


def parse(spec: str) -> EncoderName:
    name, _, source = spec.partition("@")
    return EncoderName(name, source)
