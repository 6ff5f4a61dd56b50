/* The neuron over a whole sequence, forward and backward; compiled by `compiled.py`.

   Of what is compiled decide, besides what `neuron.h` says,
     MEMBRANE  1: membrane potentials are a result, and have a gradient
     LEARNED   1: gradients of decay and threshold, per neuron

   Sequences are [T, n], step after step in memory, currents perhaps one step that is repeated
   (stride 0). Neuron i has the decay and the threshold of channel (i / inner) % channels.

   A block of neurons is taken through all steps before the next one begins, so that its state stays
   in the cache; each of its neurons through a stretch of STEPS at once, in registers. */

#include "neuron.h"

typedef struct {
  int64_t steps, n, x_step, channels, inner; /* x_step: n, or 0 */
  int64_t betas, thresholds;                 /* how many: 1 or `channels` */
  int64_t threads;
} sequence;

/* Neurons of a block that keeps `rows` numbers of each. */
static int64_t block_of(int64_t rows) {
  const int64_t lanes = MOST_BYTES / (rows * (int64_t)sizeof(real)) / 64 * 64;
  return lanes < 64 ? 64 : lanes > MOST_LANES ? MOST_LANES : lanes;
}

/* The value of each neuron of a block; one that all share is there once `ready`. */
static void fill(real *lanes, const real *values, int64_t count, const sequence *s, int64_t start,
                   int64_t n, int ready) {
  if (count > 1) {
    RUNS(s, start, n)
    for (int64_t i = at; i < at + run; i++) lanes[i] = values[channel];
  } else if (!ready) {
    for (int64_t i = 0; i < n; i++) lanes[i] = values[0];
  }
}

/* Both return 0, or 1 if there is no memory. */

int forward(const sequence *s, const stored *x, const real *betas, const real *thresholds,
            stored *spikes, real *potential) {
  const int64_t lanes = block_of(3 + STEPS);
  const int past = s->steps * s->n * (int64_t)sizeof(stored) > LARGE;
  int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
  {
    real *const memory = lines((3 + STEPS) * lanes * sizeof(real));
    failed = memory == NULL;
    int ready = 0;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (memory == NULL) continue;
      real *const beta = memory, *const threshold = memory + lanes;
      real *const states = memory + 2 * lanes;
      stored *const spike = (stored *)(states + lanes);
      const int64_t n = smaller(s->n - start, lanes);
      fill(beta, betas, s->betas, s, start, n, ready);
      fill(threshold, thresholds, s->thresholds, s, start, n, ready);
      ready = 1;
      for (int64_t i = 0; i < n; i++) states[i] = 0;
      for (int64_t first = 0; first < s->steps; first += STEPS) {
        const stored *const current = x + first * s->x_step + start;
#if MEMBRANE
        real *const out = potential + first * s->n + start;
#endif
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          real state = states[i];
#pragma GCC unroll 64
          for (int64_t t = 0; t < STEPS; t++) {
            const real u = next(beta[i], state, load(current[t * s->x_step + i]), threshold[i]);
            spike[t * lanes + i] = store(u > threshold[i] ? 1 : 0);
#if MEMBRANE
            out[t * s->n + i] = u;
#endif
            state = kept(u, threshold[i]);
          }
          states[i] = state;
        }
        for (int64_t t = 0; t < STEPS; t++)
          put(spikes + (first + t) * s->n + start, spike + t * lanes, n, past);
      }
    }
    wait_for_writes();
    free(memory);
  }
  (void)potential;
  return failed;
}

/* States at the start of each stretch come first; then, from the last one back, potentials and
   gradients of a stretch. */
int backward(const sequence *s, const stored *x, const real *betas, const real *thresholds,
             const stored *d_spikes, const real *d_potential, stored *d_x, real *d_beta,
             real *d_threshold, double width, double root, double centre) {
  const int64_t stretches = s->steps / STEPS, rows = 3 + stretches + STEPS, lanes = block_of(rows);
  const int past = s->steps * s->n * (int64_t)sizeof(stored) > LARGE;
  int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
  {
    real *const memory = lines(rows * lanes * sizeof(real));
    failed = memory == NULL;
    int ready = 0;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (memory == NULL) continue;
      real *const beta = memory, *const threshold = memory + lanes;
      real *const carried = memory + 2 * lanes, *const states = memory + 3 * lanes;
      stored *const out = (stored *)(states + stretches * lanes);
      const int64_t n = smaller(s->n - start, lanes);
      fill(beta, betas, s->betas, s, start, n, ready);
      fill(threshold, thresholds, s->thresholds, s, start, n, ready);
      ready = 1;
      for (int64_t i = 0; i < n; i++) states[i] = carried[i] = 0;
#if LEARNED
      for (int64_t i = start; i < start + n; i++) d_beta[i] = d_threshold[i] = 0;
#endif
      for (int64_t k = 1; k < stretches; k++) {
        const stored *const current = x + (k - 1) * STEPS * s->x_step + start;
        const real *const before = states + (k - 1) * lanes;
        real *const after = states + k * lanes;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          real state = before[i];
#pragma GCC unroll 64
          for (int64_t t = 0; t < STEPS; t++)
            state = kept(next(beta[i], state, load(current[t * s->x_step + i]), threshold[i]),
                         threshold[i]);
          after[i] = state;
        }
      }
      for (int64_t k = stretches - 1; k >= 0; k--) {
        const int64_t at = k * STEPS * s->n + start;
        const stored *const current = x + k * STEPS * s->x_step + start;
        const stored *const given = d_spikes + at;
#if MEMBRANE
        const real *const direct = d_potential + at;
#endif
#pragma GCC ivdep
        for (int64_t i = 0; i < n; i++) {
          real state = states[k * lanes + i], before[STEPS], u[STEPS];
#pragma GCC unroll 64
          for (int64_t t = 0; t < STEPS; t++) {
            before[t] = state;
            u[t] = next(beta[i], state, load(current[t * s->x_step + i]), threshold[i]);
            state = kept(u[t], threshold[i]);
          }
          real d = carried[i];
#pragma GCC unroll 64
          for (int64_t t = STEPS - 1; t >= 0; t--) {
            const int fired = u[t] > threshold[i];
            const real d_spike = of_spike(load(given[t * s->n + i]), d, u[t], threshold[i]);
            const real v = u[t] - threshold[i] - (real)centre;
            const real through = derivative(v, (real)width, (real)root) * d_spike;
#if LEARNED
            d_threshold[start + i] -= through;
#if RESET >= 2
            d_threshold[start + i] -= fired ? d : 0;
#endif
#endif
#if RESET == 1
            d = fired ? 0 : d;
#endif
            real d_u = through + THROUGH(d, beta[i]);
#if MEMBRANE
            d_u += direct[t * s->n + i];
#endif
            out[t * lanes + i] = store(d_u);
#if LEARNED
            d_beta[start + i] += d_u * before[t];
#endif
            d = BACK(d_u, beta[i]);
            (void)fired;
          }
#if LEARNED && RESET == 3 /* what 0 is above was reset before the first step */
          if (k == 0 && threshold[i] < 0) d_threshold[start + i] -= d;
#endif
          carried[i] = d;
        }
        for (int64_t t = 0; t < STEPS; t++)
          put(d_x + at + t * s->n, out + t * lanes, n, past);
      }
    }
    wait_for_writes();
    free(memory);
  }
  (void)d_potential, (void)d_beta, (void)d_threshold;
  return failed;
}
