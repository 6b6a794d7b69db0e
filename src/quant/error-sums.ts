// How far stored weights are from the exact ones, as sums of squares over many tensors.

export class ErrorSums {
  #error = 0;
  #exact = 0;

  /** Values of the same place, exact and as they were stored. */
  add(exact: ArrayLike<number>, stored: ArrayLike<number>): void {
    let [error, norm] = [0, 0];
    for (let i = 0; i < exact.length; i++) {
      const value = exact[i]!;
      error += (stored[i]! - value) ** 2;
      norm += value * value;
    }
    this.#error += error;
    this.#exact += norm;
  }

  /** ‖stored − exact‖ */
  get norm(): number {
    return Math.sqrt(this.#error);
  }

  /** ‖stored − exact‖ / ‖exact‖; 0 of nothing. */
  get relative(): number {
    return this.#error === 0 ? 0 : Math.sqrt(this.#error / this.#exact);
  }
}
