/* The numbers that are computed with: float, or double where STORED is 1. */

#include <math.h>
#include <stdint.h>

#if STORED == 1
typedef double real;
#define ABS fabs
#define EXP exp
#define RINT rint
#define FLOOR floor
#else
typedef float real;
#define ABS fabsf
#define EXP expf
#define RINT rintf
#define FLOOR floorf
#endif
