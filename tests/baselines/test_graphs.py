"""Networks as graphs, against graphs drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from baselines_cases import small_space

from mathnas.baselines import Graphs, chain_graphs, graphs_of
from mathnas.errors import InvalidInputError
from mathnas.spaces.nasbench201 import (
    AVG_POOL,
    CONV_1X1,
    CONV_3X3,
    NONE,
    SKIP,
    NASBench201,
    has_path,
)

# nodes: global 0, input 1, edges 2..7 (0->1, 0->2, 1->2, 0->3, 1->3, 2->3), output 8
GLOBAL, INPUT, OUTPUT = 0, 1, 8
LABELS = {"1x1": 0, "3x3": 1, "pool": 2, "input": 3, "output": 4, "global": 5}
FULL = {(1, 2), (1, 3), (1, 5), (2, 4), (2, 6), (3, 7), (4, 7), (5, 8), (6, 8), (7, 8)}


def drawn(cell: tuple[int, ...]) -> tuple[dict[int, str], set[tuple[int, int]]]:
    """Labels and links of a cell, without the global node's links and the diagonal."""
    graphs = graphs_of(NASBench201(), [cell])
    features, adjacency = graphs.features[0], graphs.adjacency[0]
    assert features.shape == (9, 6)
    assert adjacency.shape == (9, 9)
    assert set(np.unique(adjacency)) <= {0.0, 1.0}
    assert (np.diag(adjacency) == 1).all()
    assert (adjacency[GLOBAL] == 1).all()
    assert (adjacency[1:, GLOBAL] == 0).all()
    names = {label: name for name, label in LABELS.items()}
    labels = {int(node): names[int(label)] for node, label in np.argwhere(features)}
    links = {(int(i), int(j)) for i, j in np.argwhere(adjacency) if i != j and i != GLOBAL}
    assert labels.pop(GLOBAL) == "global"
    return labels, links


def test_a_cell_of_convolutions_has_every_link() -> None:
    labels, links = drawn((CONV_1X1, CONV_3X3, AVG_POOL, CONV_3X3, CONV_1X1, CONV_3X3))
    assert links == FULL
    assert labels == {
        **dict(enumerate(("1x1", "3x3", "pool", "3x3", "1x1", "3x3"), start=2)),
        INPUT: "input",
        OUTPUT: "output",
    }


def test_none_loses_its_links() -> None:
    labels, links = drawn((CONV_1X1, CONV_1X1, CONV_1X1, NONE, CONV_1X1, CONV_1X1))
    assert links == FULL - {(1, 5), (5, 8)}
    assert 5 not in labels


def test_a_skip_links_what_is_before_it_to_what_is_behind_it() -> None:
    # 1->2 is a skip between 0->1 and 2->3; 0->3 links the input to the output
    labels, links = drawn((CONV_1X1, CONV_3X3, SKIP, SKIP, CONV_1X1, AVG_POOL))
    assert links == {(1, 2), (1, 3), (2, 6), (2, 7), (3, 7), (6, 8), (7, 8), (1, 8)}
    assert set(labels) == {1, 2, 3, 6, 7, 8}


def test_skips_in_a_row_are_one_link() -> None:
    labels, links = drawn((SKIP, NONE, SKIP, NONE, NONE, SKIP))
    assert links == {(INPUT, OUTPUT)}
    assert labels == {INPUT: "input", OUTPUT: "output"}


def test_what_is_on_no_path_is_pruned() -> None:
    # nothing leaves node 1, and nothing enters node 2: edges 0->1 and 2->3 are dead
    labels, links = drawn((CONV_3X3, NONE, NONE, CONV_1X1, NONE, CONV_3X3))
    assert links == {(1, 5), (5, 8)}
    assert labels == {1: "input", 5: "1x1", 8: "output"}


def test_a_cell_without_a_path_has_no_label_but_the_global_one() -> None:
    labels, links = drawn((CONV_3X3, CONV_3X3, CONV_3X3, NONE, NONE, NONE))
    assert labels == {}
    assert links == set()


def test_the_output_has_its_label_exactly_where_a_path_leads_to_it() -> None:
    space = NASBench201()
    cells = space.all_networks()
    labelled = space.graphs(cells)[0][:, OUTPUT, LABELS["output"]] == 1
    connected = [has_path(tuple(cell)) for cell in cells.tolist()]
    assert labelled.tolist() == connected
    assert labelled.sum() == 15_284  # as many as BRP-NAS has


def test_other_spaces_are_chains() -> None:
    space = small_space()
    graphs = graphs_of(space, [(0, 2, 1), (1, 1, 0)])
    # labels a, b, c, d, e, input, output, global; nodes global, input, one, two, three, output
    assert graphs.features.argmax(axis=2).tolist() == [[7, 5, 0, 3, 4, 6], [7, 5, 1, 1, 0, 6]]
    assert (graphs.features.sum(axis=2) == 1).all()
    expected = np.array(
        [
            [1, 1, 1, 1, 1, 1],
            [0, 1, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 0, 0, 1, 1, 0],
            [0, 0, 0, 0, 1, 1],
            [0, 0, 0, 0, 0, 1],
        ]
    )
    assert (graphs.adjacency == expected).all()
    assert len(graphs) == 2


def test_a_network_of_another_space_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="node 'one' has blocks 0 to 1, but got 5"):
        chain_graphs(small_space(), [(5, 0, 0)])
    with pytest.raises(InvalidInputError, match="blocks 0 to 4, but got 5"):
        graphs_of(NASBench201(), [(5, 0, 0, 0, 0, 0)])


def test_arrays_that_do_not_fit_are_no_graphs() -> None:
    with pytest.raises(InvalidInputError, match=r"adjacency has shape \(k, n, n\), but got"):
        Graphs(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)))
