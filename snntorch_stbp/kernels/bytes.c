/* Inputs and weights as bytes, if they can be; see `int8.py`.

   Of what is compiled decides STORED, as in real.h. */

#include "real.h"

enum { LARGEST = 127, BLOCK = 16384 };

/* Fills `out` with `factor` times the `n` numbers of `x`. Returns 1 if these are not whole numbers
   from 0 to 127; then what is in `out` has no meaning. */
int64_t inputs(const stored *x, uint8_t *out, int64_t n, int64_t threads, double factor) {
  const real times = (real)factor;
  int others = 0;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t start = 0; start < n; start += BLOCK) {
    int found;
#pragma omp atomic read
    found = others;
    if (found) continue;
    const int64_t stop = start + BLOCK < n ? start + BLOCK : n;
    int32_t differs = 0;
    for (int64_t i = start; i < stop; i++) {
      const real value = load(x[i]) * times;
      const real inside = value >= 0 && value <= LARGEST ? value : (real)0.5;
      const int32_t whole = (int32_t)inside;
      differs |= (real)whole != inside;
      out[i] = (uint8_t)whole;
    }
    if (differs) {
#pragma omp atomic write
      others = 1;
    }
  }
  return others;
}

/* Fills `out` with the numbers of `w`, `rows` of `n`, in scales of their row. Returns 1 if these are
   not whole numbers, but for rounding, from -127 to 127; then what is in `out` has no meaning. */
int64_t weights(const stored *w, const real *scale, int8_t *out, int64_t rows, int64_t n,
                int64_t threads) {
  int others = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : others)
  for (int64_t row = 0; row < rows; row++) {
    const real unit = scale[row];
    int32_t found = 0;
    for (int64_t i = row * n; i < (row + 1) * n; i++) {
      const real value = load(w[i]) / unit, level = RINT(value);
      const real inside = ABS(level) <= LARGEST ? level : 0;
      found |= !(ABS(value - inside) <= (real)0x1p-10);
      out[i] = (int8_t)(int32_t)inside;
    }
    others |= found;
  }
  return others;
}
