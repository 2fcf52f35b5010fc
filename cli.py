"""What all command lines share."""
import argparse


class Parser(argparse.ArgumentParser):
    """Argument errors in one line, without the usage before it; exit code 2."""

    def error(self, message):
        self.exit(2, f'{self.prog}: {message}\n')
