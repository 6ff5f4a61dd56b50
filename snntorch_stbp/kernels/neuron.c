/* The neuron over a whole sequence, forward and backward; compiled by `compiled.py`.

   Of what is compiled decide, besides what `neuron.h` says,
     MEMBRANE  1: membrane potentials are a result, and have a gradient
     LEARNED   1: gradients of decay and threshold, per neuron

   Sequences are [T, n], step after step in memory, currents perhaps one step that is repeated
   (stride 0). Neuron i has the decay and the threshold of channel (i / inner) % channels.

   A block of neurons is taken through all steps before the next one begins, so that its state stays
   in the cache. */

#include "neuron.h"

typedef struct {
  int64_t steps, n, x_step, channels, inner; /* x_step: n, or 0 */
  int64_t betas, thresholds;                 /* how many: 1 or `channels` */
  int64_t threads;
} shape;

/* Neurons of a block that keeps `rows` numbers of each. */
static int64_t lanes_of(int64_t rows) {
  const int64_t lanes = STATE / (rows * (int64_t)sizeof(real)) / 64 * 64;
  return lanes < 64 ? 64 : lanes > MOST ? MOST : lanes;
}

/* The value of each neuron of a block; one that all share is there from the first block on. */
static void spread(real *lanes, const real *values, int64_t count, const shape *s, int64_t start,
                   int64_t n, int first) {
  if (count > 1) {
    RUNS(s, start, n)
    for (int64_t i = at; i < at + run; i++) lanes[i] = values[channel];
  } else if (first) {
    for (int64_t i = 0; i < n; i++) lanes[i] = values[0];
  }
}

/* Both return 0, or 1 if there is no memory. */

int forward(const shape *s, const stored *x, const real *betas, const real *thresholds,
            stored *spikes, real *potential) {
  const int64_t lanes = lanes_of(4);
  const int past = s->steps * s->n * (int64_t)sizeof(stored) > LARGE;
  int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
  {
    real *const u = malloc(4 * lanes * sizeof(real));
    failed = u == NULL;
    int first = 1;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (u == NULL) continue;
      real *const beta = u + lanes, *const threshold = u + 2 * lanes;
      stored *const spike = (stored *)(u + 3 * lanes);
      const int64_t n = s->n - start < lanes ? s->n - start : lanes;
      spread(beta, betas, s->betas, s, start, n, first);
      spread(threshold, thresholds, s->thresholds, s, start, n, first);
      first = 0;
      for (int64_t i = 0; i < n; i++) u[i] = 0;
      for (int64_t t = 0; t < s->steps; t++) {
        const stored *const current = x + t * s->x_step + start;
#if MEMBRANE
        real *const out = potential + t * s->n + start;
#endif
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          const real v = beta[i] * u[i] + load(current[i]);
          spike[i] = store(v > threshold[i] ? 1 : 0);
#if MEMBRANE
          out[i] = v;
#endif
          u[i] = kept(v, threshold[i]);
        }
        put(spikes + t * s->n + start, spike, n, past);
      }
    }
    wait_for_writes();
    free(u);
  }
  (void)potential;
  return failed;
}

int backward(const shape *s, const stored *x, const real *betas, const real *thresholds,
             const stored *d_spikes, const real *d_potential, stored *d_x, real *d_beta,
             real *d_threshold, double width, double root, double centre) {
  const int64_t rows = s->steps + 4, lanes = lanes_of(rows);
  const int past = s->steps * s->n * (int64_t)sizeof(stored) > LARGE;
  int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
  {
    real *const memory = malloc(rows * lanes * sizeof(real));
    failed = memory == NULL;
    int first = 1;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (memory == NULL) continue;
      real *const beta = memory, *const threshold = memory + lanes;
      real *const carried = memory + 2 * lanes, *const us = memory + 3 * lanes;
      stored *const out = (stored *)(us + s->steps * lanes);
      const int64_t n = s->n - start < lanes ? s->n - start : lanes;
      spread(beta, betas, s->betas, s, start, n, first);
      spread(threshold, thresholds, s->thresholds, s, start, n, first);
      first = 0;
      for (int64_t i = 0; i < n; i++) us[i] = load(x[start + i]);
      for (int64_t t = 1; t < s->steps; t++) {
        const stored *const current = x + t * s->x_step + start;
        const real *const before = us + (t - 1) * lanes;
        real *const u = us + t * lanes;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++)
          u[i] = beta[i] * kept(before[i], threshold[i]) + load(current[i]);
      }
      for (int64_t i = 0; i < n; i++) carried[i] = 0;
#if LEARNED
      for (int64_t i = start; i < start + n; i++) d_beta[i] = d_threshold[i] = 0;
#endif
      for (int64_t t = s->steps - 1; t >= 0; t--) {
        const real *const u = us + t * lanes;
        const stored *const given = d_spikes + t * s->n + start;
#if MEMBRANE
        const real *const direct = d_potential + t * s->n + start;
#endif
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          const int fired = u[i] > threshold[i];
          real d = carried[i];
          const real d_spike = of_spike(load(given[i]), d, u[i], threshold[i]);
          const real v = u[i] - threshold[i] - (real)centre;
          const real through = derivative(v, (real)width, (real)root) * d_spike;
#if LEARNED
          d_threshold[start + i] -= through;
#if RESET == 2
          d_threshold[start + i] -= fired ? d : 0;
#endif
#endif
#if RESET == 1
          d = fired ? 0 : d;
#endif
          (void)fired;
          real d_u = through + d;
#if MEMBRANE
          d_u += direct[i];
#endif
          out[i] = store(d_u);
#if LEARNED
          if (t > 0) d_beta[start + i] += d_u * kept(u[i - lanes], threshold[i]);
#endif
          carried[i] = d_u * beta[i];
        }
        put(d_x + t * s->n + start, out, n, past);
      }
    }
    wait_for_writes();
    free(memory);
  }
  (void)d_potential, (void)d_beta, (void)d_threshold;
  return failed;
}
