/* Sums of windows of 2x2 times a factor, forward and backward; see `pooling.py`.

   Of what is compiled decides STORED, as in real.h. Inputs are rows of `width` pixels of `depth`
   numbers each, an even number of rows and of pixels: planes one after the other (`depth` 1), or
   images with their channels last. A window is added up in the order of its pixels, as torch does. */

#include "real.h"

#define WINDOW(i)                                                                                  \
  (load(upper[i]) + load(upper[(i) + depth]) + load(lower[i]) + load(lower[(i) + depth]))

#define EACH(i, n) _Pragma("GCC ivdep") for (int64_t i = 0; i < (n); i++)

void forward(const stored *x, stored *y, int64_t rows, int64_t width, int64_t depth,
             int64_t threads, double factor) {
  const real times = (real)factor;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows / 2; row++) {
    const stored *upper = x + 2 * row * width * depth, *lower = upper + width * depth;
    stored *out = y + row * (width / 2) * depth;
    if (depth == 1) {
      const int64_t depth = 1;
      EACH(i, width / 2) out[i] = store(WINDOW(2 * i) * times);
      continue;
    }
    for (int64_t pixel = 0; pixel < width / 2; pixel++) {
      EACH(c, depth) out[c] = store(WINDOW(c) * times);
      upper += 2 * depth, lower += 2 * depth, out += depth;
    }
  }
}

#define SPREAD(i, value) upper[i] = upper[(i) + depth] = lower[i] = lower[(i) + depth] = value

void backward(const stored *d_y, stored *d_x, int64_t rows, int64_t width, int64_t depth,
              int64_t threads, double factor) {
  const real times = (real)factor;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows / 2; row++) {
    stored *upper = d_x + 2 * row * width * depth, *lower = upper + width * depth;
    const stored *given = d_y + row * (width / 2) * depth;
    if (depth == 1) {
      const int64_t depth = 1;
      EACH(i, width / 2) SPREAD(2 * i, store(load(given[i]) * times));
      continue;
    }
    for (int64_t pixel = 0; pixel < width / 2; pixel++) {
      EACH(c, depth) SPREAD(c, store(load(given[c]) * times));
      upper += 2 * depth, lower += 2 * depth, given += depth;
    }
  }
}
