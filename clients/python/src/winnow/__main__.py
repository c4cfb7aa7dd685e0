import sys

from winnow.command import main

sys.exit(main())
