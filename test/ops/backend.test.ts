// What base.ts gives every backend, seen through the reference backend.

import { describe, expect, it } from "vitest";
import { BufferLedger, runOp, unsupported } from "../../src/backends/base.ts";
import { BACKEND_NAMES, type BackendName, openBackend } from "../../src/backends/open.ts";
import { ReferenceBackend } from "../../src/backends/reference/reference.ts";
import { QdlError } from "../../src/errors.ts";
import { HostBuffer } from "../../src/tensor/host.ts";
import { matrix } from "../../src/tensor/tensor.ts";
import { expectCode } from "./conformance.ts";

describe("the ledger of buffers", () => {
  it("counts live and peak bytes", () => {
    const backend = new ReferenceBackend();
    const [a, b] = [backend.alloc(100, "a"), backend.alloc(50, "b")];
    a.dispose();
    a.dispose();
    backend.alloc(20, "c");
    expect([backend.allocatedBytes, backend.peakBytes]).toEqual([70, 150]);
    b.dispose();
    expect(backend.allocatedBytes).toBe(20);
  });

  it("refuses what does not fit, with the numbers", () => {
    const ledger = new BufferLedger("tiny", 100);
    const add = (bytes: number) => ledger.add(bytes, "weights", () => new HostBuffer(bytes, "weights"));
    add(60);
    expectCode("MEMORY_EXCEEDED", () => add(41));
    expect(ledger.allocatedBytes).toBe(60);
    add(40);
    expectCode("OP_ARGUMENT", () => add(-1));
    expectCode("OP_ARGUMENT", () => add(0.5));
  });

  it("reports an allocation that fails as memory, keeping the cause", () => {
    const ledger = new BufferLedger("broken");
    const cause = new RangeError("no memory");
    const add = () =>
      ledger.add(8, "x", () => {
        throw cause;
      });
    expect(add).toThrow(expect.objectContaining({ code: "MEMORY_EXCEEDED", cause }));
    expect(ledger.allocatedBytes).toBe(0);
  });

  it("keeps a backend from going before its buffers, and names them", async () => {
    const backend = new ReferenceBackend();
    const buffer = backend.alloc(8, "adapter A");
    await expect(backend[Symbol.asyncDispose]()).rejects.toThrow(/"adapter A" \(8 bytes\)/);
    buffer.dispose();
    await backend[Symbol.asyncDispose]();
    expectCode("TENSOR_STALE", () => backend.alloc(8, "late"));
  });
});

describe("reading and writing", () => {
  it("moves bytes and gives zeroed memory", async () => {
    const backend = new ReferenceBackend();
    const buffer = backend.alloc(4, "x");
    backend.write(buffer, 1, Uint8Array.of(7, 8));
    expect(await backend.read(buffer, 0, 4)).toEqual(Uint8Array.of(0, 7, 8, 0));
  });

  it("refuses ranges outside, released buffers and foreign ones", async () => {
    const backend = new ReferenceBackend();
    const buffer = backend.alloc(4, "x");
    expectCode("OP_ARGUMENT", () => backend.write(buffer, 3, new Uint8Array(2)));
    expectCode("OP_ARGUMENT", () => backend.write(new HostBuffer(4, "foreign"), 0, new Uint8Array(2)));
    await expect(backend.read(buffer, -1, 2)).rejects.toThrow(QdlError);
    buffer.dispose();
    expectCode("TENSOR_STALE", () => backend.write(buffer, 0, new Uint8Array(2)));
  });
});

describe("running an op", () => {
  const reference = new ReferenceBackend();

  it("names the reason when there is no kernel", () => {
    const kernels = { ...reference.kernels, fill: unsupported("no reason at all") };
    const call = () => runOp({ name: "half", kernels }, new BufferLedger("half"), "fill", {} as never, null);
    expectCode("OP_UNSUPPORTED", call);
    expect(call).toThrow("half has no kernel for fill: no reason at all");
  });

  it("refuses scratch that is absent or too small, and passes none where none is needed", () => {
    const seen: unknown[] = [];
    const ledger = new BufferLedger("scratchy");
    const alloc = (bytes: number) => ledger.add(bytes, "memory", () => new HostBuffer(bytes, "memory"));
    const y = matrix(alloc(8), "f32", 1, 2);
    const run = (needed: number, scratch: number | null) => {
      const fill = { run: (_: object, given: unknown) => seen.push(given), scratchBytes: () => needed };
      const memory = scratch === null ? null : matrix(alloc(scratch), "u8", 1, scratch);
      runOp({ name: "scratchy", kernels: { ...reference.kernels, fill } }, ledger, "fill", { y, value: 1 }, memory);
    };
    expectCode("OP_ARGUMENT", () => run(16, null));
    expectCode("OP_ARGUMENT", () => run(16, 15));
    run(16, 17);
    run(0, 17);
    expect(seen).toEqual([expect.objectContaining({ cols: 17 }), null]);
  });
});

describe("openBackend", () => {
  it("opens the reference", async () => {
    await using backend = await openBackend("reference");
    expect(backend.name).toBe("reference");
  });

  it("refuses a name that it does not know, listing those it does", async () => {
    for (const name of ["tpu", "toString"])
      await expect(openBackend(name as BackendName)).rejects.toThrow(
        expect.objectContaining({
          code: "BACKEND_UNAVAILABLE",
          message: expect.stringContaining(BACKEND_NAMES.join(", ")),
        }),
      );
  });
});
