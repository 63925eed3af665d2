"""python -m tests.rehearsal"""
import argparse, time, resource
from tests.rehearsal.step import Case, rehearse
import sys
case = eval(sys.argv[1])
t=time.process_time()
stages = rehearse(case)
for n,s in stages.items():
    print(f"{n:<20}{s.flops/1e12:9.2f} TF {s.peak/1e9:8.2f} GB k {s.kernels:6} moved {s.moved/1e9:8.1f} up {s.uploads:4} col {s.collectives/1e9:.1f} sync {sum(s.synchronisations.values())}", s.synchronisations.most_common(5))
print(time.process_time()-t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6)
