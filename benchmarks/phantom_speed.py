"""Frames a second of the phantom at 256x256 on one core, and the cost of writing such a frame as PNG beside it.

python benchmarks/phantom_speed.py [FRAMES]
"""

import sys
import time

import cv2

from polypforge.core.images import png_bytes
from polypforge.phantom.render import render

cv2.setNumThreads(1)
frames = int(sys.argv[1]) if len(sys.argv) > 1 else 100
render(0)
start = time.process_time()
cases = [render(i, 256) for i in range(frames)]
drawn = time.process_time()
for case in cases:
    png_bytes(case.image)
written = time.process_time()
print(
    f"{frames} frames at 256x256, one core: render {frames / (drawn - start):.1f} a second, PNG {frames / (written - drawn):.1f} a second"
)
print(f"rendering costs {(drawn - start) / (written - drawn):.1f} times what writing costs")
