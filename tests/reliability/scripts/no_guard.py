"""A script without a main guard: every worker that imports it runs it again."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from mathnas import (
    Block,
    BlockNode,
    Evaluator,
    MathNASError,
    SearchSpace,
    Study,
    evaluate,
    metric_named,
)

with open("starts", "a") as log:
    log.write("start\n")


class Typed(Evaluator):
    metrics = (metric_named("latency_ms"),)

    def evaluate(self, network, seed):  # type: ignore[no-untyped-def]
        return {"latency_ms": 1.0}


space = SearchSpace([BlockNode("a", tuple(Block(f"b{i}") for i in range(9)))])
with Study("a.study", space) as study:
    try:
        networks = [(i,) for i in range(9)]
        if sys.argv[1] == "pool":
            print(evaluate(study, networks, Typed(), workers=2))
        else:
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(2, mp_context=spawn) as executor:
                print(evaluate(study, networks, Typed(), executor=executor))
    except MathNASError as error:
        print(f"{type(error).__name__}: {error}")
