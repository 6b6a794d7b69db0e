// What of the cuda backend needs no GPU: finding libraries, keeping compiled kernels, writing arguments, choosing packs.

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Recording } from "../../src/backends/backend.ts";
import { CudaBuffer } from "../../src/backends/cuda/buffer.ts";
import { CubinCache } from "../../src/backends/cuda/cubin-cache.ts";
import type { CudaDevice } from "../../src/backends/cuda/device.ts";
import { Driver, Uncapturable } from "../../src/backends/cuda/driver.ts";
import { earlyConfig, kernelArguments } from "../../src/backends/cuda/launch.ts";
import {
  cublasLtLibrary,
  driverLibrary,
  type Library,
  libraryFolders,
  loadLibrary,
  nvrtcLibrary,
} from "../../src/backends/cuda/libraries.ts";
import { GraphRecording } from "../../src/backends/cuda/recording.ts";
import { TuningCache } from "../../src/backends/cuda/tuning.ts";
import { walkElements, walkRows, widthFor } from "../../src/backends/cuda/walk.ts";
import type { QdlError } from "../../src/errors.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { matrix } from "../../src/tensor/tensor.ts";

const folder = () => mkdtempSync(join(tmpdir(), "qdylora-cuda-"));

describe("finding libraries", () => {
  it("looks where the user says first, then in the environment's wheels, then in toolkits", () => {
    const prefix = folder();
    mkdirSync(join(prefix, "lib/python3.11"), { recursive: true });
    const env = { CUDA_LIBRARY_PATH: "/mine:/yours", VIRTUAL_ENV: prefix, CUDA_HOME: "/toolkit" };
    const folders = libraryFolders(env);
    const packages = join(prefix, "lib/python3.11/site-packages/nvidia");
    expect(folders.slice(0, 6)).toEqual([
      "/mine",
      "/yours",
      join(packages, "cu13/lib"),
      join(packages, "cublas/lib"),
      join(packages, "cuda_nvrtc/lib"),
      join(prefix, "lib"),
    ]);
    expect(folders).toContain("/toolkit/lib64");
    expect(folders.indexOf("/toolkit/lib64")).toBeGreaterThan(5);
  });

  it("says what is missing, where it was looked for, and what to install", () => {
    const empty = folder();
    const env = { CUDA_LIBRARY_PATH: empty };
    const missing = [99, 98];
    for (const [wanted, name, install] of [
      [{ ...driverLibrary(env), names: ["libcuda-missing.so.1"] }, "libcuda-missing.so.1", /NVIDIA's driver/],
      [nvrtcLibrary(missing, env), "libnvrtc.so.99 or libnvrtc.so.98", /nvidia-cuda-nvrtc/],
      [cublasLtLibrary(missing, env), "libcublasLt.so.99 or libcublasLt.so.98", /nvidia-cublas/],
    ] as const)
      expect(() => loadLibrary(wanted)).toThrow(
        expect.objectContaining({
          code: "BACKEND_UNAVAILABLE",
          message: expect.stringContaining(`no ${name} that loads in ${empty}`),
          hint: expect.stringMatching(install),
        }),
      );
  });

  it("reports a file that is there and does not load", () => {
    const broken = folder();
    writeFileSync(join(broken, "libnvrtc.so.99"), "not a library");
    expect(() => loadLibrary(nvrtcLibrary([99], { CUDA_LIBRARY_PATH: broken }))).toThrow(
      expect.objectContaining({
        details: expect.objectContaining({
          failures: expect.arrayContaining([expect.stringContaining(`${join(broken, "libnvrtc.so.99")}: `)]),
        }),
      }),
    );
  });
});

describe("a launch before the kernel before has ended", () => {
  it("is configured as the driver reads it", () => {
    const shape = { grid: [7, 2, 3], threads: [128, 4], sharedBytes: 4096, stream: 2 ** 40 + 8 } as const;
    const at = 2 ** 33 + 64;
    const bytes = new DataView(earlyConfig(at, shape).buffer);
    const integers = (offset: number, count: number) =>
      Array.from({ length: count }, (_, i) => bytes.getUint32(offset + 4 * i, true));
    expect(integers(0, 7)).toEqual([7, 2, 3, 128, 4, 1, 4096]);
    expect(Number(bytes.getBigUint64(32, true))).toBe(shape.stream);
    expect(Number(bytes.getBigUint64(40, true))).toBe(at + 56);
    expect(integers(48, 1)).toEqual([1]);
    // Attribute 6, programmatic stream serialization, allowed.
    expect([integers(56, 1), integers(64, 1)]).toEqual([[6], [1]]);
  });
});

describe("compiled kernels on disk", () => {
  const image = Uint8Array.of(1, 2, 3);
  const never = () => {
    throw new Error("compiled again");
  };

  it("are compiled once for each source, option and compiler", () => {
    const cache = new CubinCache(folder());
    expect(cache.get(["source", "13.0"], () => image)).toEqual(image);
    expect(new Uint8Array(cache.get(["source", "13.0"], never))).toEqual(image);
    expect(cache.get(["source", "13.1"], () => Uint8Array.of(9))).toEqual(Uint8Array.of(9));
    expect(readdirSync(cache.folder)).toHaveLength(2);
  });

  it("are compiled again when a file was damaged or cut", () => {
    for (const spoil of [
      (bytes: Buffer) => bytes.fill(7, bytes.length - 1),
      (bytes: Buffer) => bytes.subarray(0, -1),
    ]) {
      const cache = new CubinCache(folder());
      cache.get(["source"], () => image);
      const file = join(cache.folder, readdirSync(cache.folder)[0]!);
      writeFileSync(file, spoil(readFileSync(file)));
      expect(() => cache.get(["source"], never)).toThrow("compiled again");
      cache.get(["source"], () => image);
      expect(new Uint8Array(cache.get(["source"], never))).toEqual(image);
    }
  });

  it("are used unkept where the folder cannot be written", () => {
    const file = join(folder(), "a file");
    writeFileSync(file, "");
    expect(new CubinCache(join(file, "cache")).get(["source"], () => image)).toEqual(image);
  });
});

describe("the choice of algorithms", () => {
  it("is the same text whatever the order of its making, and is taken over for the same target only", () => {
    const [one, other, elsewhere] = [new TuningCache("A"), new TuningCache("A"), new TuningCache("B")];
    one.set("x", "01ff");
    one.set("y", "02");
    other.set("y", "02");
    other.set("x", "01ff");
    expect(other.save()).toBe(one.save());
    const fresh = new TuningCache("A");
    fresh.load(one.save());
    elsewhere.load(one.save());
    expect([fresh.get("x"), elsewhere.get("x")]).toEqual(["01ff", undefined]);
  });

  it("refuses text that is not one", () => {
    for (const text of ["", "{}", '{"version":1,"target":"A","algorithms":{"x":"not hexadecimal"}}'])
      expect(() => new TuningCache("A").load(text)).toThrow(expect.objectContaining({ code: "CHECKPOINT_INVALID" }));
  });
});

describe("arguments of a kernel", () => {
  it("are a table of pointers, then values of eight bytes", () => {
    const base = 2 ** 40 + 64;
    const image = kernelArguments()
      .address(2 ** 33 + 5)
      .integers(-1)
      .floats(1)
      .doubles(1)
      .image(base);
    const words = new BigUint64Array(image.buffer);
    expect([...words.subarray(0, 4)]).toEqual([4, 5, 6, 7].map((slot) => BigInt(base + 8 * slot)));
    expect([...words.subarray(4)]).toEqual([2n ** 33n + 5n, 0xffffffffn, 0x3f800000n, 0x3ff0000000000000n]);
  });

  it("hold structures whole", () => {
    const words = new BigUint64Array(
      kernelArguments()
        .structure(Uint32Array.of(1, 0, 2, 0))
        .integers(3)
        .image(0).buffer,
    );
    expect([...words]).toEqual([16n, 32n, 1n, 2n, 3n]);
  });
});

describe("a repeated list", () => {
  /** A GPU that does nothing in so many milliseconds, and tells what it is asked for. */
  const idleDevice = (milliseconds: number) => {
    const asked: string[] = [];
    let nextHandle = 1;
    const answer =
      (call: string) =>
      (box?: unknown): number => {
        asked.push(call);
        if (call === "eventElapsedTime") (box as Float32Array)[0] = milliseconds;
        else if (box instanceof BigUint64Array) box[0] = BigInt(nextHandle++);
        return 0;
      };
    const calls = new Proxy(
      {},
      { get: (_, call) => (call === "streamEndCapture" ? endCapture : answer(String(call))) },
    );
    const endCapture = (_stream: number, box: BigUint64Array) => answer("streamEndCapture")(box);
    const driver = { raw: calls, checked: calls, lastOp: null };
    return { asked, device: { driver, stream: 7, capturing: false } as unknown as CudaDevice };
  };
  const runs = (recording: Recording, count: number) => {
    for (let i = 0; i < count; i++) recording.run();
  };

  it("becomes a graph after it was measured to keep the GPU waiting", () => {
    const { asked, device } = idleDevice(0.01);
    const ran: boolean[] = [];
    const recording = new GraphRecording(device, [() => ran.push(device.capturing)]);
    runs(recording, 2);
    expect([ran, asked.includes("streamBeginCapture")]).toEqual([[false, false], false]);
    runs(recording, 3);
    expect(ran).toEqual([false, false, true]);
    expect(asked.filter((call) => call === "graphLaunch")).toHaveLength(3);
    recording.dispose();
    expect(asked.filter((call) => call === "graphExecDestroy")).toHaveLength(1);
  });

  it("is run call by call where the GPU is busy, or where a call cannot be part of a graph", () => {
    for (const [milliseconds, capturable] of [
      [100, true],
      [0.01, false],
    ] as const) {
      const { asked, device } = idleDevice(milliseconds);
      let ran = 0;
      const call = () => {
        if (device.capturing && !capturable) throw new Uncapturable();
        if (!device.capturing) ran++;
      };
      runs(new GraphRecording(device, [call]), 5);
      expect([ran, device.capturing, asked.includes("graphLaunch")]).toEqual([5, false, false]);
    }
  });
});

describe("packs", () => {
  const tensor = (dtype: DType, rows: number, cols: number, offset = 0, stride = cols) =>
    matrix(
      new CudaBuffer(
        1 << 20,
        1 << 16,
        "x",
        () => {},
        () => {},
      ),
      dtype,
      rows,
      cols,
      offset,
      stride,
    );

  it("are 16 bytes of the widest element where everything is aligned", () => {
    expect(widthFor(64, [tensor("bf16", 3, 64)])).toBe(8);
    expect(widthFor(64, [tensor("f32", 3, 64)])).toBe(4);
    expect(widthFor(64, [tensor("bf16", 3, 64), tensor("f32", 3, 64)])).toBe(4);
  });

  it("are single elements where an offset, a row pitch or a width is odd", () => {
    expect(widthFor(64, [tensor("bf16", 3, 64, 2)])).toBe(1);
    expect(widthFor(64, [tensor("bf16", 3, 64, 0, 67)])).toBe(1);
    expect(widthFor(65, [tensor("bf16", 3, 65)])).toBe(1);
  });

  it("go over dense matrices as one row, and over others row by row", () => {
    expect(walkElements(tensor("bf16", 3, 8))).toEqual({ width: 8, rows: 1, packs: 3, strides: [24] });
    expect(walkElements(tensor("bf16", 3, 8, 0, 16))).toEqual({ width: 8, rows: 3, packs: 1, strides: [16] });
    expect(walkRows(tensor("bf16", 3, 8))).toEqual({ width: 8, rows: 3, packs: 1, strides: [8] });
  });
});

describe("a code of the driver", () => {
  /** A driver whose every call gives this code. */
  const driverGiving = (code: number): Driver => {
    const texts: Record<string, string> = { cuGetErrorName: "CUDA_ERROR_NAME", cuGetErrorString: "what went wrong" };
    const func = (prototype: string) => {
      const text = Object.entries(texts).find(([name]) => prototype.includes(`${name}(`))?.[1];
      if (text === undefined) return () => code;
      return (_: number, box: string[]) => {
        box[0] = text;
        return 0;
      };
    };
    return new Driver({ file: "libcuda.so.1", library: { func } as unknown as Library });
  };

  it.each([
    [700, "DEVICE_FAILED", /enqueued last was swiglu/, /CUDA_LAUNCH_BLOCKING/],
    [214, "DEVICE_FAILED", /what went wrong \(CUDA_ERROR_NAME, 214\)/, /another GPU/],
    [2, "DEVICE_FAILED", /streamSynchronize/, /smaller --memory/],
    [100, "BACKEND_UNAVAILABLE", /no NVIDIA GPU/, /CUDA_VISIBLE_DEVICES/],
    [209, "BACKEND_UNAVAILABLE", /does not accept a compiled kernel/, /Update NVIDIA's driver/],
  ] as const)("%i is %s, with what to do", (code, expected, message, hint) => {
    const driver = driverGiving(code);
    driver.lastOp = "swiglu";
    const error = (() => {
      try {
        return driver.checked.streamSynchronize(0);
      } catch (caught) {
        return caught;
      }
    })();
    expect(error).toMatchObject({ code: expected, details: { code, lastOp: "swiglu" } });
    expect((error as QdlError).message).toMatch(message);
    expect((error as QdlError).hint).toMatch(hint);
    expect(driver.raw.streamSynchronize(0)).toBe(code);
  });
});
