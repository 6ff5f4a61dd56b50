/* Neurons on integers, from the sums of their inputs to spikes; compiled by `integers.py`. The
   equations are those of `lowering/layers.py`.

   Of what is compiled decide
     STORED  0 float, 1 double: whichever holds every intermediate exactly
     RESET   0 none, 1 to zero, 2 by subtraction of the first threshold, 3 the same after the leak

   A block of neurons is taken through all steps before the next one begins; each of the loops in
   it goes over numbers that are in the cache. */

#include "tables.h"

typedef struct {
  int64_t branches, repeated;   /* sums that are added: 1 or 2; of one step that is presented at all */
  int64_t rounds;               /* currents are rounded by `half` and `unit` */
  int64_t ages;                 /* thresholds of a neuron, by the steps since its reset */
  int64_t leaks;                /* what is left of a potential is no integer: rounded down */
  double act_top;               /* currents lie in [-act_top, act_top - 1]; 0: anywhere */
  double lift;                  /* what a current is worth in units of the potential */
  double grid, levels;          /* potentials are grid * [-levels, levels - 1]; levels 0: any */
  double leak_half;             /* added before the leak is rounded down */
} rule;

enum { BIAS, HALF, UNIT, DECAY, TABLES }; /* then a multiplier per branch, then the thresholds */

#define EACH _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++)

static inline real between(real value, real low, real high) {
  return value < low ? low : value > high ? high : value;
}

/* 0, or 1 if there is no memory; `membranes` may be NULL. */
int forward(const shape *s, const rule *r, const real *sums, const real *added, const real *values,
            real *spikes, real *membranes) {
  const int64_t constants = TABLES + r->branches + r->ages, rows = constants + 5;
  const int64_t lanes = lanes_of(s, rows);
  const int past = s->steps * s->n * (int64_t)sizeof(real) > LARGE;
  int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
  {
    real *const tables = lines(rows * lanes * sizeof(real));
    failed = tables == NULL;
    int ready = 0;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < s->n; start += lanes) {
      if (tables == NULL) continue;
      const real *const bias = tables + BIAS * lanes, *const half = tables + HALF * lanes;
      const real *const unit = tables + UNIT * lanes, *const decay = tables + DECAY * lanes;
      const real *const multiplier = tables + TABLES * lanes, *const other = multiplier + lanes;
      const real *const thresholds = multiplier + r->branches * lanes;
      real *const v = tables + constants * lanes, *const age = v + lanes, *const u = age + lanes;
      real *const threshold = u + lanes, *const spike = threshold + lanes;
      const int64_t n = smaller(s->n - start, lanes);
      if (!ready || s->inner > 1) spread(tables, lanes, constants, values, s, start, n);
      ready = 1;
      EACH v[i] = age[i] = 0;
      for (int64_t t = 0; t < s->steps; t++) {
        const int64_t at = (r->repeated ? 0 : t * s->n) + start;
        EACH u[i] = sums[at + i] * multiplier[i] + bias[i];
        if (r->branches > 1)
          EACH u[i] += added[at + i] * other[i];
        if (r->rounds)
          EACH u[i] = FLOOR((u[i] + half[i]) * unit[i]);
        if (r->act_top)
          EACH
            u[i] = between(u[i], (real)-r->act_top, (real)(r->act_top - 1));
        const real lift = (real)r->lift;
        EACH u[i] = u[i] * lift + v[i];
        if (r->levels) {
          const real grid = (real)r->grid, levels = (real)r->levels, middle = FLOOR(grid / 2);
          EACH
            u[i] = between(FLOOR((u[i] + middle) / grid), -levels, levels - 1) * grid;
        }
#if RESET == 1
        EACH threshold[i] = thresholds[i];
        for (int64_t older = 1; older <= smaller(t, r->ages - 1); older++) {
          const real *const then = thresholds + older * lanes;
          EACH threshold[i] = age[i] >= older ? then[i] : threshold[i];
        }
        EACH {
          spike[i] = u[i] > threshold[i] ? 1 : 0;
          v[i] = spike[i] ? 0 : u[i];
          age[i] = spike[i] ? 0 : age[i] + 1;
        }
#else
        const real *const now = thresholds + smaller(t, r->ages - 1) * lanes;
        EACH spike[i] = u[i] > now[i] ? 1 : 0;
        EACH v[i] = RESET == 2 ? u[i] - spike[i] * thresholds[i] : u[i];
        (void)threshold;
#endif
        EACH v[i] *= decay[i];
        if (r->leaks)
          EACH v[i] = FLOOR(v[i] + (real)r->leak_half);
        if (RESET == 3)
          EACH v[i] -= spike[i] * thresholds[i];
        put(spikes + t * s->n + start, spike, n, past);
        if (membranes != NULL) put(membranes + t * s->n + start, u, n, past);
      }
    }
    wait_for_writes();
    free(tables);
  }
  return failed;
}
