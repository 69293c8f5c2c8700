"""Where a step's task executes: child processes of a forkserver on this machine.

base                            the interface, which another executor would implement
forkserver                      the executor: devices for each job, processes for each job
pool, holdings, devices, room   which step comes next, what a run holds and keeps warm, the machine's locks, its memory
team, child                     the ranks of one job, and one process
job, worker, workspace          what goes to a child, what it does, and what its task reports
preload, snapshot               what the forkserver imports, and the copy of the code that runs
"""
