/* Sums of windows of 2x2 times a factor, forward and backward; see `pooling.py`.

   Of what is compiled decides STORED, as in real.h. Inputs are rows of `width` pixels of `depth`
   numbers each, an even number of rows and of pixels: planes one after the other (`depth` 1), or
   images with their channels last. A window is added up in the order of its pixels, as torch does. */

#include <string.h>

#include "real.h"

#define WINDOW(i)                                                                                  \
  (load(upper[i]) + load(upper[(i) + depth]) + load(lower[i]) + load(lower[(i) + depth]))

#define EACH(i, n) _Pragma("GCC ivdep") for (int64_t i = 0; i < (n); i++)

/* Few channels are mostly what vectors leave over, one number at a time. Then a whole row is
   computed at once and copied pixel by pixel, though every other window of it is none. */
enum { FEW = 64 };

void forward(const stored *x, stored *y, int64_t rows, int64_t width, int64_t depth,
             int64_t threads, double factor) {
  const real times = (real)factor;
  const int few = depth > 1 && depth <= FEW;
#pragma omp parallel num_threads(threads)
  {
    stored *const sums = few ? lines(width * depth * sizeof(stored)) : NULL;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows / 2; row++) {
      const stored *upper = x + 2 * row * width * depth, *lower = upper + width * depth;
      stored *out = y + row * (width / 2) * depth;
      if (depth == 1) {
        const int64_t depth = 1;
        EACH(i, width / 2) out[i] = store(WINDOW(2 * i) * times);
        continue;
      }
      if (sums != NULL) {
        EACH(i, (width - 1) * depth) sums[i] = store(WINDOW(i) * times);
        for (int64_t pixel = 0; pixel < width / 2; pixel++)
          memcpy(out + pixel * depth, sums + 2 * pixel * depth, depth * sizeof(stored));
        continue;
      }
      for (int64_t pixel = 0; pixel < width / 2; pixel++) {
        EACH(c, depth) out[c] = store(WINDOW(c) * times);
        upper += 2 * depth, lower += 2 * depth, out += depth;
      }
    }
    free(sums);
  }
}

#define SPREAD(i, value) upper[i] = upper[(i) + depth] = lower[i] = lower[(i) + depth] = value

void backward(const stored *d_y, stored *d_x, int64_t rows, int64_t width, int64_t depth,
              int64_t threads, double factor) {
  const real times = (real)factor;
  const int few = depth > 1 && depth <= FEW;
#pragma omp parallel num_threads(threads)
  {
    stored *const shares = few ? lines(width / 2 * depth * sizeof(stored)) : NULL;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows / 2; row++) {
      stored *upper = d_x + 2 * row * width * depth, *lower = upper + width * depth;
      const stored *given = d_y + row * (width / 2) * depth;
      if (depth == 1) {
        const int64_t depth = 1;
        EACH(i, width / 2) SPREAD(2 * i, store(load(given[i]) * times));
        continue;
      }
      if (shares != NULL) {
        EACH(i, width / 2 * depth) shares[i] = store(load(given[i]) * times);
        for (int64_t pixel = 0; pixel < width; pixel++)
          memcpy(upper + pixel * depth, shares + pixel / 2 * depth, depth * sizeof(stored));
        memcpy(lower, upper, width * depth * sizeof(stored));
        continue;
      }
      for (int64_t pixel = 0; pixel < width / 2; pixel++) {
        EACH(c, depth) SPREAD(c, store(load(given[c]) * times));
        upper += 2 * depth, lower += 2 * depth, given += depth;
      }
    }
    free(shares);
  }
}
