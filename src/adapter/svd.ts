// Singular value decomposition of a product of two thin factors, without ever forming the product: both factors are made
// orthonormal (A = L_A·Q_A, Bᵀ = L_B·Q_B), so that B·A = Q_Bᵀ·(L_Bᵀ·L_A)·Q_A, and the small core in the middle is decomposed by
// one-sided Jacobi rotations, which find small singular values as exactly as large ones (Golub & Van Loan, §8.6.3). All in f64.

export interface ThinSvd {
  /** σ, [r], descending. */
  readonly sigma: Float64Array;
  /** [r, M]: row i is the left singular vector of σ_i; zero where σ_i is. */
  readonly left: Float64Array;
  /** [r, K]: row i is the right singular vector of σ_i; zero where σ_i is. */
  readonly right: Float64Array;
}

/** SVD of B·A, [M, K], from A [r, K] and Bᵀ [r, M]: Σ σ_i · left_iᵀ · right_i. */
export function svdOfProduct(a: ArrayLike<number>, bTransposed: ArrayLike<number>, rank: number): ThinSvd {
  const [K, M] = [a.length / rank, bTransposed.length / rank];
  const qa = Float64Array.from(a);
  const qb = Float64Array.from(bTransposed);
  const la = orthonormalise(qa, rank, K);
  const lb = orthonormalise(qb, rank, M);
  // Row i is column i of the core L_Bᵀ·L_A, so that rotations of columns run over memory in order.
  const core = new Float64Array(rank * rank);
  for (let i = 0; i < rank; i++)
    for (let j = 0; j < rank; j++)
      for (let k = 0; k < rank; k++) core[i * rank + j]! += la[k * rank + i]! * lb[k * rank + j]!;
  const v = identity(rank);
  rotate(core, v, rank);
  const norms = Float64Array.from({ length: rank }, (_, i) => norm(core, i, rank));
  const order = Array.from(norms.keys()).sort((x, y) => norms[y]! - norms[x]! || x - y);
  const u = core.map((value, at) => {
    const length = norms[Math.floor(at / rank)]!;
    return length === 0 ? 0 : value / length;
  });
  for (const i of order) if (norms[i] === 0) v.fill(0, i * rank, (i + 1) * rank);
  return {
    sigma: Float64Array.from(order, (i) => norms[i]!),
    left: combine(u, order, qb, M),
    right: combine(v, order, qa, K),
  };
}

/** A row this much shorter after projection than before is a combination of the rows above it. */
const DEPENDENT = 1e-14;
/** A row that kept this share of its length is orthogonal to the last bits; one that lost more is projected once more. */
const ENOUGH = Math.SQRT1_2;

/**
 * Replaces the rows of [r, n] by orthonormal ones (zero rows where a row depends on those above) and returns L, [r, r] lower
 * triangular: rows = L·Q. Modified Gram-Schmidt; twice is enough.
 */
function orthonormalise(rows: Float64Array, rank: number, n: number): Float64Array {
  const L = new Float64Array(rank * rank);
  for (let i = 0; i < rank; i++) {
    const before = norm(rows, i, n);
    project(rows, i, n, L, rank);
    let length = norm(rows, i, n);
    if (length < ENOUGH * before) {
      project(rows, i, n, L, rank);
      length = norm(rows, i, n);
    }
    const dependent = length <= DEPENDENT * before;
    L[i * rank + i] = dependent ? 0 : length;
    for (let k = 0; k < n; k++) rows[i * n + k] = dependent ? 0 : rows[i * n + k]! / length;
  }
  return L;
}

/** Takes from row i what lies along the rows above it, and notes it in L. */
function project(rows: Float64Array, i: number, n: number, L: Float64Array, rank: number): void {
  for (let j = 0; j < i; j++) {
    const along = dot(rows, i, rows, j, n);
    L[i * rank + j]! += along;
    for (let k = 0; k < n; k++) rows[i * n + k]! -= along * rows[j * n + k]!;
  }
}

const PRECISION = 2 ** -52;
const MOST_SWEEPS = 60;

/** Rotates the rows of `w` against each other until all are orthogonal, and the rows of `v` with them. */
function rotate(w: Float64Array, v: Float64Array, r: number): void {
  for (let sweep = 0; sweep < MOST_SWEEPS; sweep++) {
    let rotated = false;
    for (let p = 0; p < r; p++)
      for (let q = p + 1; q < r; q++) {
        const [alpha, beta, gamma] = [dot(w, p, w, p, r), dot(w, q, w, q, r), dot(w, p, w, q, r)];
        if (Math.abs(gamma) <= PRECISION * Math.sqrt(alpha * beta)) continue;
        rotated = true;
        const zeta = (beta - alpha) / (2 * gamma);
        const t = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const c = 1 / Math.hypot(1, t);
        turn(w, p, q, r, c, c * t);
        turn(v, p, q, r, c, c * t);
      }
    if (!rotated) return;
  }
}

function turn(w: Float64Array, p: number, q: number, r: number, c: number, s: number): void {
  for (let k = 0; k < r; k++) {
    const [x, y] = [w[p * r + k]!, w[q * r + k]!];
    w[p * r + k] = c * x - s * y;
    w[q * r + k] = s * x + c * y;
  }
}

/** Rows `order` of coefficients [r, r] times q [r, n]. */
function combine(coefficients: Float64Array, order: readonly number[], q: Float64Array, n: number): Float64Array {
  const r = order.length;
  const out = new Float64Array(r * n);
  for (const [to, i] of order.entries())
    for (let j = 0; j < r; j++) {
      const factor = coefficients[i * r + j]!;
      if (factor !== 0) for (let k = 0; k < n; k++) out[to * n + k]! += factor * q[j * n + k]!;
    }
  return out;
}

function dot(x: Float64Array, i: number, y: Float64Array, j: number, n: number): number {
  let sum = 0;
  for (let k = 0; k < n; k++) sum += x[i * n + k]! * y[j * n + k]!;
  return sum;
}

const norm = (rows: Float64Array, i: number, n: number): number => Math.sqrt(dot(rows, i, rows, i, n));

function identity(n: number): Float64Array {
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) out[i * n + i] = 1;
  return out;
}
