"""Exit statuses of `mae_jax`: what the launchers (launch/) and other programs decide by."""

DONE = 0
FAILED = 1  # a check that the verb makes failed (parity, doctor, verify)
BAD_INPUT = 2  # a UserError: nothing was started, and starting the same again will not help
TOO_LARGE = 3  # `mae_jax compile`: the step does not fit
GIVEN_UP = 4  # the numbers went wrong for good: a person must look; launchers must not restart
RESTART = 75  # a hang, or a process that was lost: the same command resumes (EX_TEMPFAIL of sysexits.h)
INTERRUPTED = 143  # a signal asked to stop; the state is saved, and the same command resumes
