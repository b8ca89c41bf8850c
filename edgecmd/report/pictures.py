"""The retrieval gallery: drawings, their own pictures and the nearest ones found.

Shapes: H height, W width, C channels.
"""

import base64
import struct
import zlib

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from edgecmd.report.drawing import INK, STYLE, Drawing, to_png
from edgecmd.report.markup import Cell, inline  # noqa: F401
from edgecmd.report.read import Gallery
