// A list of prepared calls, repeated. Where the GPU waits for the host, as small models make it do, the list is captured as
// a CUDA graph and launched as one; the bits are the same. Whether it waits is measured, once for each list.

import type { Recording } from "../backend.ts";
import type { CudaDevice, Step } from "./device.ts";
import { NOT_READY, Uncapturable } from "./driver.ts";
import { out64 } from "./native-calls.ts";

/** A call that the GPU spends less on than this, on average over a list, costs the host about as much. */
const HOST_BOUND_MS = 0.025;
const CAPTURE_THREAD_LOCAL = 1;

type Stage = "first" | "measure" | "measured" | "plain" | "graph";

export class GraphRecording implements Recording {
  readonly #device: CudaDevice;
  readonly #calls: readonly Step[];
  #stage: Stage = "first";
  #events: readonly [number, number] | null = null;
  #graph = 0;

  constructor(device: CudaDevice, calls: readonly Step[]) {
    this.#device = device;
    this.#calls = calls;
  }

  /** The first run times products and loads kernels, the second is measured, a later one captured. */
  run(): void {
    if (this.#stage === "measured") this.#decide();
    if (this.#stage === "graph") this.#launch();
    else if (this.#stage === "measure") this.#measure();
    else for (const call of this.#calls) call();
    if (this.#stage === "first") this.#stage = "measure";
  }

  dispose(): void {
    const { raw } = this.#device.driver;
    for (const event of this.#events ?? []) raw.eventDestroy(event);
    this.#events = null;
    // The driver keeps a graph that still runs until its end.
    if (this.#graph !== 0) raw.graphExecDestroy(this.#graph);
    this.#graph = 0;
    this.#stage = "plain";
  }

  #measure(): void {
    const { driver, stream } = this.#device;
    const event = () => out64((box) => driver.checked.eventCreate(box, 0));
    this.#events = [event(), event()];
    driver.checked.eventRecord(this.#events[0], stream);
    for (const call of this.#calls) call();
    driver.checked.eventRecord(this.#events[1], stream);
    this.#stage = "measured";
  }

  /** Once the measured run is over. Stays in its stage until then. */
  #decide(): void {
    const { driver } = this.#device;
    const [from, to] = this.#events!;
    const code = driver.raw.eventQuery(to);
    if (code === NOT_READY) return;
    if (code !== 0) driver.fail("eventQuery", code);
    const time = new Float32Array(1);
    driver.checked.eventElapsedTime(time, from, to);
    for (const event of this.#events!) driver.raw.eventDestroy(event);
    this.#events = null;
    this.#graph = time[0]! < HOST_BOUND_MS * this.#calls.length ? this.#capture() : 0;
    this.#stage = this.#graph === 0 ? "plain" : "graph";
  }

  /** The executable graph; 0 if a call cannot be part of one. */
  #capture(): number {
    const { driver, stream } = this.#device;
    driver.checked.streamBeginCapture(stream, CAPTURE_THREAD_LOCAL);
    this.#device.capturing = true;
    let complete = false;
    const graphBox = new BigUint64Array(1);
    try {
      for (const call of this.#calls) call();
      complete = true;
    } catch (error) {
      if (!(error instanceof Uncapturable)) throw error;
    } finally {
      this.#device.capturing = false;
      driver.raw.streamEndCapture(stream, graphBox);
    }
    const graph = Number(graphBox[0]);
    if (graph === 0) return 0;
    try {
      return complete ? out64((box) => driver.checked.graphInstantiate(box, graph, 0)) : 0;
    } finally {
      driver.raw.graphDestroy(graph);
    }
  }

  #launch(): void {
    const { driver, stream } = this.#device;
    driver.lastOp = `a recorded list of ${this.#calls.length} ops`;
    driver.checked.graphLaunch(this.#graph, stream);
  }
}
