"""The one-to-one matching of rows with columns whose weights have the largest sum."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def best_matching(weights: Tensor) -> Tensor:
    """Return the weights of the matched pairs, [min(n, m)], of the best matching of weights [n, m].

    Exact: shortest augmenting paths (Jonker and Volgenant, 1987), in float64 on the CPU.
    """
    if weights.shape[0] > weights.shape[1]:
        weights = weights.t()
    columns = torch.from_numpy(_assign(-weights.double().cpu().numpy()))
    return weights.cpu().gather(1, columns.unsqueeze(1)).squeeze(1)


def _assign(cost: np.ndarray) -> np.ndarray:
    """The column of each row of cost [n, m], n <= m, such that the sum is smallest."""
    num_rows, num_columns = cost.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)
    row_of, column_of = np.full(num_columns, -1), np.full(num_rows, -1)
    for start in range(num_rows):
        # Dijkstra over reduced costs, from this row to the nearest column that is free.
        distance, came_from = np.full(num_columns, np.inf), np.full(num_columns, -1)
        is_open = np.ones(num_columns, dtype=bool)
        row, reached = start, 0.0
        while True:
            through = reached + cost[row] - row_price[row] - column_price
            nearer = is_open & (through < distance)
            distance[nearer], came_from[nearer] = through[nearer], row
            column = int(np.where(is_open, distance, np.inf).argmin())
            reached = distance[column]
            if row_of[column] < 0:
                break
            is_open[column] = False
            row = row_of[column]
        slack = np.where(is_open, 0.0, reached - distance)
        column_price -= slack
        row_price[row_of[~is_open]] += slack[~is_open]
        row_price[start] += reached
        while column >= 0:  # hand every row on the path its new column
            row = came_from[column]
            row_of[column] = row
            column, column_of[row] = column_of[row], column
    return column_of
