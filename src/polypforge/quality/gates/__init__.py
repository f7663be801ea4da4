"""Gates: small functions that look at one synthetic case and give a score; `register_gate` adds one."""

from polypforge.quality.gates import artefacts, detection, drawing, label, memory
from polypforge.quality.gates.gate import GATES, Gate, Rule, register_gate
from polypforge.quality.gates.gatekeeper import Gatekeeper
from polypforge.quality.gates.subject import Look, Subject
from polypforge.quality.gates.verdict import Verdict

__all__ = [
    "GATES",
    "Gate",
    "Gatekeeper",
    "Look",
    "Rule",
    "Subject",
    "Verdict",
    "artefacts",
    "detection",
    "drawing",
    "label",
    "memory",
    "register_gate",
]
