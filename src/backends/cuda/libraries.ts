// Finds and loads NVIDIA's libraries: explicit settings first, then Python environments (NVIDIA's wheels), then toolkits,
// then the system's loader. What is not found is reported with every place that was looked at.

import { existsSync, readdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { QdlError } from "../../errors.ts";
import { koffi } from "../native.ts";

export type Library = ReturnType<typeof koffi.load>;

export interface LoadedLibrary {
  readonly file: string;
  readonly library: Library;
}

export interface WantedLibrary {
  /** Folders to look in before the system's loader. */
  readonly folders: readonly string[];
  /** As people know it. */
  readonly title: string;
  /** File names, the one to prefer first. */
  readonly names: readonly string[];
  /** What to install. */
  readonly hint: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

const TOOLKIT_HINT =
  "Install NVIDIA's libraries: `pip install nvidia-cuda-nvrtc nvidia-cublas` (CUDA 13; names end in -cu12 for CUDA 12) in the active virtual environment, or the CUDA toolkit; CUDA_LIBRARY_PATH names their folders if they are elsewhere.";

/** It comes with the system: only WSL keeps it where the loader may not look. */
export const driverLibrary = (env: Environment = process.env): WantedLibrary => ({
  title: "NVIDIA's driver",
  names: ["libcuda.so.1"],
  folders: [...namedFolders(env), "/usr/lib/wsl/lib"],
  hint: "Install NVIDIA's driver, and check it with `nvidia-smi`; in a container, pass the GPU through (docker run --gpus all).",
});

/** NVRTC of these CUDA versions, the one to prefer first. */
export const nvrtcLibrary = (majors: readonly number[], env: Environment = process.env): WantedLibrary => ({
  title: "NVRTC, the compiler of the kernels",
  names: majors.map((major) => `libnvrtc.so.${major}`),
  folders: libraryFolders(env),
  hint: TOOLKIT_HINT,
});

/** cuBLASLt of these CUDA versions, the one to prefer first. */
export const cublasLtLibrary = (majors: readonly number[], env: Environment = process.env): WantedLibrary => ({
  title: "cuBLASLt, the matrix products",
  names: majors.map((major) => `libcublasLt.so.${major}`),
  folders: libraryFolders(env),
  hint: TOOLKIT_HINT,
});

/** Folders in which CUDA libraries may lie, the first to look in first. */
export function libraryFolders(env: Environment = process.env): string[] {
  const folders = namedFolders(env);
  for (const prefix of [env.VIRTUAL_ENV, env.CONDA_PREFIX]) {
    if (!prefix) continue;
    for (const python of childrenOf(join(prefix, "lib"), "python3"))
      for (const wheel of ["cu13", "cublas", "cuda_nvrtc"])
        folders.push(join(python, "site-packages", "nvidia", wheel, "lib"));
    folders.push(join(prefix, "lib"));
  }
  for (const toolkit of [env.CUDA_HOME, env.CUDA_PATH, ...childrenOf("/usr/local", "cuda"), "/opt/cuda"])
    if (toolkit)
      folders.push(...["lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"].map((at) => join(toolkit, at)));
  return [...new Set(folders)];
}

/** Those that the user names. */
function namedFolders(env: Environment): string[] {
  return (env.CUDA_LIBRARY_PATH ?? "").split(delimiter).filter((folder) => folder !== "");
}

/** Loads the first of the names that is found and loads. Throws BACKEND_UNAVAILABLE with all that was tried. */
export function loadLibrary({ title, names, hint, folders }: WantedLibrary): LoadedLibrary {
  const found = names.flatMap((name) => folders.map((folder) => join(folder, name)).filter((file) => existsSync(file)));
  const failures: string[] = [];
  for (const file of [...found, ...names]) {
    try {
      return { file, library: koffi.load(file) };
    } catch (error) {
      failures.push(`${file}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  const looked = folders.length > 0 ? `${folders.join(", ")} and the system's loader` : "the system's loader";
  throw new QdlError(
    "BACKEND_UNAVAILABLE",
    `cuda: ${title} cannot be loaded: no ${names.join(" or ")} that loads in ${looked}`,
    { hint, details: { names, folders, failures } },
  );
}

/** Entries of a folder that start with `prefix`, the newest version first. */
function childrenOf(folder: string, prefix: string): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => name.startsWith(prefix))
      .sort((a, b) => b.localeCompare(a, "en", { numeric: true }))
      .map((name) => join(folder, name));
  } catch {
    return [];
  }
}
