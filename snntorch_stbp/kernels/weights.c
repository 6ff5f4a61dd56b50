/* Weights quantized with a scale per output channel, forward and backward; see `levels.py`, whose
   equations these are.

   Of what is compiled decide
     STORED  0 float, 1 double
     LEVELS  0 integers up to `top`, 1 two (minus and plus one), 2 three
     SCALE   what the largest level is a multiple of: 0 root mean square, 1 largest magnitude
     LEARNED 1 where that multiple is learned, and clipped weights have no gradient of their own

   Weights are [rows, n], an output channel after the other. A row is read once from memory, and
   then from the cache. `loadings` are the multiples, one of each row. */

#include "real.h"

static inline real sign(real w) { return (real)((w > 0) - (w < 0)); }

/* Sums of doubles come out alike in whatever order, once they are rounded to float: levels are the
   same on every machine. */
static double statistic(const real *w, int64_t n, double loading, double smallest) {
#if SCALE == 0
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += (double)w[i] * w[i];
  const double value = loading * sqrt(sum / n);
#else
  real sum = 0;
#pragma omp simd reduction(max : sum)
  for (int64_t i = 0; i < n; i++) sum = ABS(w[i]) > sum ? ABS(w[i]) : sum;
  const double value = loading * sum;
#endif
  return value < smallest ? smallest : value;
}

/* Levels of `w`, and of every row the statistic. */
void forward(const real *w, const real *loadings, real *y, real *statistics, int64_t rows,
             int64_t n, int64_t threads, double smallest, double top, double threshold) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows; row++) {
    const real *const in = w + row * n;
    real *const out = y + row * n;
    const real value = statistics[row] = (real)statistic(in, n, loadings[row], smallest);
#if LEVELS == 0
    const real scale = value / (real)top, most = (real)top;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      real q = RINT(in[i] / scale);
      q = q < -most ? -most : q;
      out[i] = (q > most ? most : q) * scale;
    }
    (void)threshold;
#elif LEVELS == 1
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = in[i] >= 0 ? value : -value;
    (void)top, (void)threshold;
#else
    const real least = (real)threshold * value;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = (ABS(in[i]) > least ? sign(in[i]) : 0) * value; /* NaN stays */
    (void)top;
#endif
  }
}

/* Whether the gradient of a level reaches its weight, of which `units` are scales. */
#if LEVELS == 1
#define STRAIGHT(units) 0
#elif LEARNED
#define STRAIGHT(units) (ABS(RINT(units)) <= (real)top)
#else
#define STRAIGHT(units) 1
#endif

/* Gradients of `w` and of every row's statistic, from those of its levels `y` and its scale. */
void backward(const real *w, const real *loadings, const real *y, const real *statistics,
              const real *d_y, const real *d_scales, real *d_w, real *d_statistics, int64_t rows,
              int64_t n, int64_t threads, double top) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows; row++) {
    const real *const in = w + row * n, *const level = y + row * n, *const given = d_y + row * n;
    real *const out = d_w + row * n;
    const real value = statistics[row], scale = LEVELS ? value : value / (real)top;
    real moved = 0;
#pragma omp simd reduction(+ : moved)
    for (int64_t i = 0; i < n; i++)
      moved += given[i] * (STRAIGHT(in[i] / scale) ? level[i] - in[i] : level[i]);
    const real d_scale = moved / scale + d_scales[row];
    const real d_value = d_statistics[row] = LEVELS ? d_scale : d_scale / (real)top;
#if SCALE == 0
    const real through = d_value * (loadings[row] * loadings[row] / (real)n) / value;
#else
    int64_t largest = 0;
#pragma omp simd reduction(+ : largest)
    for (int64_t i = 0; i < n; i++) largest += ABS(in[i]) == value;
    const real through = d_value / (largest ? largest : 1);
    (void)loadings;
#endif
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
#if SCALE == 0
      const real of_statistic = in[i] * through;
#else
      const real of_statistic = ABS(in[i]) == value ? sign(in[i]) * through : 0;
#endif
#if LEVELS == 1
      out[i] = of_statistic + given[i] * value;
#else
      out[i] = of_statistic + (STRAIGHT(in[i] / scale) ? given[i] : 0);
#endif
    }
  }
}
