"""Products of thin factors and their singular values by numpy in float64, for test/adapter/svd.test.ts.

Run: python tools/svd-fixtures.py        (needs numpy and safetensors)

Writes test/fixtures/svd.safetensors: per case `NAME.a` f32 [r, K], `NAME.b` f32 [r, M] (B transposed), `NAME.sigma` f64 [r], and
`NAME.best.RANK` f64 [M, K], the best approximation of B·A of that rank.
"""

import pathlib

import numpy as np
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parent.parent / "test/fixtures/svd.safetensors"
rng = np.random.default_rng(7)


def normal(*shape):
    return rng.standard_normal(shape)


def cases():
    yield "random", normal(5, 17), normal(5, 11), [1, 2, 5]
    yield "one", normal(1, 7), normal(1, 3), [1]
    # More rows than either dimension: the product's rank is 4.
    yield "wide-rank", normal(8, 6), normal(8, 4), [1, 3]
    dependent = normal(6, 13)
    dependent[3] = dependent[0] - 2 * dependent[2]
    yield "dependent", dependent, normal(6, 9), [2, 5]
    yield "zero-b", normal(4, 6), np.zeros((4, 5)), [1]
    # Rows of very unlike sizes, as after long training with weight decay: σ from 1e4 to 1e-6.
    scales = np.array([1e4, 1.0, 1e-3, 1e-6])[:, None]
    yield "graded", np.linalg.qr(normal(12, 4))[0].T * scales, np.linalg.qr(normal(10, 4))[0].T, [1, 3]
    # Equal singular values: vectors are not unique, the approximation of all of them is.
    yield "equal", np.linalg.qr(normal(9, 4))[0].T, np.linalg.qr(normal(8, 4))[0].T, [4]


tensors = {}
for name, a, b, ranks in cases():
    a, b = (np.ascontiguousarray(x, dtype=np.float32) for x in (a, b))
    u, s, vt = np.linalg.svd(b.astype(np.float64).T @ a.astype(np.float64), full_matrices=False)
    rank = len(a)
    tensors[f"{name}.a"], tensors[f"{name}.b"] = a, b
    tensors[f"{name}.sigma"] = np.concatenate([s, np.zeros(rank)])[:rank]
    for k in ranks:
        tensors[f"{name}.best.{k}"] = np.ascontiguousarray(u[:, :k] * s[:k] @ vt[:k])
save_file(tensors, OUT)
print(f"{len(tensors)} tensors, {OUT.stat().st_size} bytes, numpy {np.__version__}")
