"""What things are called: clouds, accelerators and what a limit counts. One answer for every reader.

People's words are read strictly (a wrong one is refused with the right one), price sources leniently.
"""
