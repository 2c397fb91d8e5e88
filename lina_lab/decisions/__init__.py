"""What to train next follows from results, and so does what may be said of them: the statistics of both.

A study decides with these functions which values to try and when it has enough seeds; a report shows the same numbers.
They know tables of losses only.
"""
