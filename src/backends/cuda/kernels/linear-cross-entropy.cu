// Loss and gradient of one chunk of logits, a block per row: one pass for the maximum and the sum of exponentials, one that
// puts tokenWeight·(softmax − onehot) in the place of the logits, in TYPE. Narrower elements are written behind the reading.

__device__ __forceinline__ float block_max(float x) {
  __shared__ float parts[32];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  for (u32 i = 0; i < blockDim.x / 32; i++) x = fmaxf(x, parts[i]);
  return x;
}

__device__ __forceinline__ float capped(float logit, float cap) { return CAPPED ? cap * tanhf(logit / cap) : logit; }

extern "C" __global__ void __launch_bounds__(512) linear_cross_entropy(float *logits, i64 stride, u32 cols, const int *targets,
                                                                       i64 stride_targets, const float *token_weights,
                                                                       i64 stride_weights, float *loss, i64 stride_loss,
                                                                       float cap) {
  const u32 row = blockIdx.x;
  float *z = logits + row * stride;
  const int target = targets[row * stride_targets];
  if (target < 0) {
    if (threadIdx.x == 0) loss[row * stride_loss] = 0;
    if (GRADIENT)
      for (u32 i = threadIdx.x; i < cols; i += blockDim.x) reinterpret_cast<TYPE *>(z)[i] = from_float<TYPE>(0);
    return;
  }
  const float infinity = __uint_as_float(0x7f800000u), at_target = capped(z[target], cap);
  float largest = -infinity, sum = 0;
  // Rows start on 16 bytes, and their last pack may be filled up with what is no logit.
  for (u32 i = threadIdx.x * 4; i < cols; i += blockDim.x * 4) {
    float v[4];
    load(v, z + i);
#pragma unroll
    for (int j = 0; j < 4; j++)
      v[j] = i + j >= cols ? -infinity : capped(v[j], cap);
    const float before = largest;
    largest = fmaxf(largest, fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3])));
    sum = sum * expf(before - largest) + expf(v[0] - largest) + expf(v[1] - largest) + expf(v[2] - largest) + expf(v[3] - largest);
  }
  const float maximum = block_max(largest);
  const float total = block_sum(sum * expf(largest - maximum));
  if (threadIdx.x == 0) loss[row * stride_loss] = maximum + logf(total) - at_target;
  if (!GRADIENT) return;
  const float weight = token_weights[row * stride_weights], factor = weight / total;
  for (u32 from = 0; from < cols; from += blockDim.x * 4) {
    const u32 i = from + threadIdx.x * 4;
    float v[4] = {};
    if (i < cols) load(v, z + i);
    __syncthreads();  // a row's TYPE are written over logits that all have read
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float logit = capped(v[j], cap), share = CAPPED ? logit / cap : 0;
      v[j] = (factor * expf(logit - maximum) - (i + j == target ? weight : 0)) * (1 - share * share);
    }
    if (i < cols) store(reinterpret_cast<TYPE *>(z) + i, v);
  }
}
