/**
 * The glossary of dimension letters. Every shape in this repository is written with them.
 *
 * N  rows of a micro-batch: tokens laid end to end, all segments, then tail padding
 * S  segments (samples) in a micro-batch; a segment attends only to itself
 * C  hidden size (channels of the residual stream)
 * K  in-features of a linear; M  out-features
 * R  largest rank of the adapter; b  active rank, 1 ≤ b ≤ R: rows 0..b−1 of A and B
 * H  query heads; G  key/value heads (G divides H); D  head dim
 * F  feed-forward width
 * V  vocabulary
 * T  rows of a key/value cache (slots × longest sequence)
 * P  16-bit packed values, bytes or blocks of a quantised weight
 */
export type Dim =
  | "N"
  | "S"
  | "S+1"
  | "C"
  | "K"
  | "M"
  | "R"
  | "H"
  | "HD"
  | "GD"
  | "D"
  | "F"
  | "V"
  | "T"
  | "P"
  | "Q"
  | "1"
  | "*";
