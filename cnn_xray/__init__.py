"""Does this chest X-ray network look at the disease, or at the scanner?"""

__version__ = "0.1.0"
