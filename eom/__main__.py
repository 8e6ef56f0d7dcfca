"""python -m eom"""

from eom.cli import main

main()
