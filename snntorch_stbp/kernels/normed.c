/* Batch normalisation and the neuron behind it as one operation; compiled by `normed.py`.

   Of what is compiled decide, besides what `neuron.h` says,
     ADDED     1: a second current is added to what is normalised, as in a residual block
     REPEATED  1: `x` is one step that is presented at every step (never with ADDED)

   With `mean` and `rate = 1 / sqrt(variance + eps)` of a channel,

     z = rate x - rate mean       current = scale x + shift [+ added]       scale = weight rate

   Currents are never written: the backward pass computes them, and the potentials, again. It needs
   two passes, since what x gets depends on the sums of `d` and of `d z` over its channel. */

#include "tables.h"

typedef double sums[2]; /* of a channel */

static double *zeros(int64_t count) {
  double *const memory = lines(count * sizeof(double));
  return memory ? memset(memory, 0, count * sizeof(double)) : NULL;
}

/* Add sums per neuron, [2, lanes], to those per channel; leave zeros behind. */
static void gather(sums *total, double *lane, int64_t lanes, const shape *s, int64_t start,
                   int64_t n) {
  RUNS(s, start, n)
  for (int64_t i = at; i < at + run; i++)
    for (int64_t k = 0; k < 2; k++) {
      total[channel][k] += lane[k * lanes + i];
      lane[k * lanes + i] = 0;
    }
}

/* The sums of all threads, in their order: the same result every time. */
static void add_up(sums *result, sums *const parts, const shape *s) {
  for (int64_t c = 0; c < s->channels; c++)
    for (int64_t k = 0; k < 2; k++) {
      result[c][k] = 0;
      for (int64_t p = 0; p < s->threads; p++) result[c][k] += parts[p * s->channels + c][k];
    }
}

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

/* All return 0, or 1 if there is no memory. */

/* Mean and (biased) variance of x per channel, over the steps that are in memory. They are summed up
   as distances from a value of the channel, since the squares of large numbers swallow a variance. */
int statistics(const shape *s, const stored *x, sums *result) {
  const int64_t lanes = lanes_of(s, 6), steps = REPEATED ? 1 : s->steps;
  sums *const parts = calloc(s->threads * s->channels, sizeof(sums));
  real *const first = lines(s->channels * sizeof(real));
  const int memory = parts != NULL && first != NULL;
  int failed = !memory;
  for (int64_t c = 0; c < s->channels && memory; c++) first[c] = load(x[c * s->inner]);
#pragma omp parallel num_threads(s->threads) reduction(| : failed) if (memory)
  {
    double *const lane = memory ? zeros(2 * lanes) : NULL;
    real *const from = memory ? lines(lanes * sizeof(real)) : NULL;
    failed |= lane == NULL || from == NULL;
    sums *const part = parts + omp_get_thread_num() * s->channels;
    int ready = 0;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (failed) continue;
      const int64_t n = smaller(s->n - start, lanes);
      if (!ready || s->inner > 1) spread(from, lanes, 1, first, s, start, n);
      ready = 1;
      for (int64_t t = 0; t < steps; t++) {
        const stored *const value = x + t * s->n + start;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          const double v = (double)load(value[i]) - from[i];
          lane[i] += v;
          lane[lanes + i] += v * v;
        }
      }
      if (s->inner > 1) gather(part, lane, lanes, s, start, n);
    }
    if (!failed && s->inner == 1) gather(part, lane, lanes, s, 0, smaller(s->n, lanes));
    free(lane);
    free(from);
  }
  if (!failed) {
    const double count = (double)(steps * s->n / s->channels);
    add_up(result, parts, s);
    for (int64_t c = 0; c < s->channels; c++) {
      const double mean = result[c][0] / count, variance = result[c][1] / count - mean * mean;
      result[c][0] = mean + first[c];
      result[c][1] = variance < 0 ? 0 : variance;
    }
  }
  free(first);
  free(parts);
  return failed;
}

enum { SCALE, SHIFT, BETA, THRESHOLD, RATE, OFFSET, TABLES }; /* offset: -mean rate */

/* The tables, [TABLES, channels]; `many` says whether there is a decay, or a threshold, for each. */
int prepare(const shape *s, const double *means, const double *variances, const real *weights,
            const real *biases, const real *betas, const real *thresholds, real *tables,
            double many_betas, double many_thresholds, double eps) {
  const int64_t n = s->channels;
  for (int64_t c = 0; c < n; c++) {
    const double rate = 1 / sqrt(variances[c] + eps), scale = weights[c] * rate;
    tables[SCALE * n + c] = (real)scale;
    tables[SHIFT * n + c] = (real)(biases[c] - means[c] * scale);
    tables[BETA * n + c] = betas[many_betas ? c : 0];
    tables[THRESHOLD * n + c] = thresholds[many_thresholds ? c : 0];
    tables[RATE * n + c] = (real)rate;
    tables[OFFSET * n + c] = (real)(-means[c] * rate);
  }
  return 0;
}

/* What is normalised at step t, of neuron i of the block, and its current. */
#define VALUE(t, i) load(x[(REPEATED ? 0 : (t)) * s->n + start + (i)])
#if ADDED
#define CURRENT(t, i) (VALUE(t, i) * scale[i] + shift[i] + load(added[(t) * s->n + start + (i)]))
#else
#define CURRENT(t, i) (VALUE(t, i) * scale[i] + shift[i])
#endif

/* `values` are the first four tables, per channel. */
int forward(const shape *s, const stored *x, const stored *added, const real *values,
            stored *spikes) {
  const int64_t rows = 5 + STEPS, lanes = lanes_of(s, rows);
  const int past = s->steps * s->n * (int64_t)sizeof(stored) > LARGE;
  int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
  {
    real *const tables = lines(rows * lanes * sizeof(real));
    failed = tables == NULL;
    int ready = 0;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (tables == NULL) continue;
      const real *const scale = tables + SCALE * lanes, *const shift = tables + SHIFT * lanes;
      const real *const beta = tables + BETA * lanes, *const threshold = tables + THRESHOLD * lanes;
      real *const states = tables + 4 * lanes;
      stored *const spike = (stored *)(states + lanes);
      const int64_t n = smaller(s->n - start, lanes);
      if (!ready || s->inner > 1) spread(tables, lanes, 4, values, s, start, n);
      ready = 1;
      for (int64_t i = 0; i < n; i++) states[i] = 0;
      for (int64_t first = 0; first < s->steps; first += STEPS) {
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          real state = states[i];
#pragma GCC unroll 64
          for (int64_t t = 0; t < STEPS; t++) {
            const real u = next(beta[i], state, CURRENT(first + t, i), threshold[i]);
            spike[t * lanes + i] = store(u > threshold[i] ? 1 : 0);
            state = kept(u, threshold[i]);
          }
          states[i] = state;
        }
        for (int64_t t = 0; t < STEPS; t++)
          put(spikes + (first + t) * s->n + start, spike + t * lanes, n, past);
      }
    }
    wait_for_writes();
    free(tables);
  }
  (void)added;
  return failed;
}

/* Gradients `d` of currents, summed over time if REPEATED, and their sums, alone and times `z`.
   Through time in stretches, as `neuron.c`. */
int backward(const shape *s, const stored *x, const stored *added, const real *values,
             const stored *d_spikes, stored *d, sums *result, double width, double root,
             double centre) {
  const int64_t stretches = s->steps / STEPS, rows = TABLES + 3 + stretches + STEPS;
  const int64_t lanes = lanes_of(s, rows);
  const int past = s->steps * s->n * (int64_t)sizeof(stored) > LARGE;
  sums *const parts = calloc(s->threads * s->channels, sizeof(sums));
  int failed = parts == NULL;
#pragma omp parallel num_threads(s->threads) reduction(| : failed) if (parts != NULL)
  {
    real *const tables = parts ? lines(rows * lanes * sizeof(real)) : NULL;
    double *const lane = parts ? zeros(2 * lanes) : NULL;
    failed |= tables == NULL || lane == NULL;
    sums *const part = parts + omp_get_thread_num() * s->channels;
    int ready = 0;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (tables == NULL || lane == NULL) continue;
      const real *const scale = tables + SCALE * lanes, *const shift = tables + SHIFT * lanes;
      const real *const beta = tables + BETA * lanes, *const threshold = tables + THRESHOLD * lanes;
      const real *const rate = tables + RATE * lanes, *const offset = tables + OFFSET * lanes;
      real *const carried = tables + TABLES * lanes, *const alone = carried + lanes;
      real *const times = alone + lanes, *const states = times + lanes;
      stored *const out = (stored *)(states + stretches * lanes);
      const int64_t n = smaller(s->n - start, lanes);
      if (!ready || s->inner > 1) spread(tables, lanes, TABLES, values, s, start, n);
      ready = 1;
      for (int64_t i = 0; i < n; i++) states[i] = carried[i] = alone[i] = times[i] = 0;
      for (int64_t k = 1; k < stretches; k++) {
        const real *const before = states + (k - 1) * lanes;
        real *const after = states + k * lanes;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          real state = before[i];
#pragma GCC unroll 64
          for (int64_t t = 0; t < STEPS; t++)
            state = kept(next(beta[i], state, CURRENT((k - 1) * STEPS + t, i), threshold[i]),
                         threshold[i]);
          after[i] = state;
        }
      }
      for (int64_t k = stretches - 1; k >= 0; k--) {
        const int64_t first = k * STEPS;
        const stored *const given = d_spikes + first * s->n + start;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          real state = states[k * lanes + i], u[STEPS];
#pragma GCC unroll 64
          for (int64_t t = 0; t < STEPS; t++) {
            u[t] = next(beta[i], state, CURRENT(first + t, i), threshold[i]);
            state = kept(u[t], threshold[i]);
          }
          real d_kept = carried[i], sum = alone[i], product = times[i];
#pragma GCC unroll 64
          for (int64_t t = STEPS - 1; t >= 0; t--) {
            const real d_spike = of_spike(load(given[t * s->n + i]), d_kept, u[t], threshold[i]);
            const real v = u[t] - threshold[i] - (real)centre;
#if RESET == 1
            d_kept = u[t] > threshold[i] ? 0 : d_kept;
#endif
            const real d_u = derivative(v, (real)width, (real)root) * d_spike + THROUGH(d_kept, beta[i]);
            sum += d_u;
            product += d_u * (VALUE(first + t, i) * rate[i] + offset[i]);
            d_kept = BACK(d_u, beta[i]);
#if !REPEATED
            out[t * lanes + i] = store(d_u);
#endif
          }
          carried[i] = d_kept, alone[i] = sum, times[i] = product;
        }
#if !REPEATED
        for (int64_t t = 0; t < STEPS; t++)
          put(d + (first + t) * s->n + start, out + t * lanes, n, past);
#endif
      }
      for (int64_t i = 0; i < n; i++) {
        lane[i] += alone[i];
        lane[lanes + i] += times[i];
#if REPEATED
        out[i] = store(alone[i]);
#endif
      }
#if REPEATED
      put(d + start, out, n, past);
#endif
      if (s->inner > 1) gather(part, lane, lanes, s, start, n);
    }
    if (lane != NULL && s->inner == 1) gather(part, lane, lanes, s, 0, smaller(s->n, lanes));
    wait_for_writes();
    free(lane);
    free(tables);
  }
  (void)added;
  if (!failed) add_up(result, parts, s);
  free(parts);
  return failed;
}

/* Gradients of x, `a d + b x + c` per channel; `values` are these three. `result` may be `d`. */
int settle(const shape *s, const stored *x, const stored *d, const real *values, stored *result) {
  const int64_t lanes = lanes_of(s, 3), steps = REPEATED ? 1 : s->steps;
  int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
  {
    real *const a = lines(3 * lanes * sizeof(real)), *const b = a + lanes, *const c = b + lanes;
    failed = a == NULL;
    int ready = 0;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (a == NULL) continue;
      const int64_t n = smaller(s->n - start, lanes);
      if (!ready || s->inner > 1) spread(a, lanes, 3, values, s, start, n);
      ready = 1;
      for (int64_t t = 0; t < steps; t++) {
        const int64_t at = t * s->n + start;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++)
          result[at + i] = store(a[i] * load(d[at + i]) + (b[i] * load(x[at + i]) + c[i]));
      }
    }
    free(a);
  }
  return failed;
}
