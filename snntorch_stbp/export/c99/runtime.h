/* Floor of value / 2^bits: C99 leaves the right shift of negative numbers open. */
static inline int32_t snn_shift(int32_t value, int bits)
{
    return value >= 0 ? value >> bits : -1 - ((-1 - value) >> bits);
}

static inline int32_t snn_clip(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Windows over values [height][width][channels] that give sums [rows][columns][sums]. */
typedef struct {
    int32_t channels, height, width;
    int32_t sums, rows, columns;
    int32_t kernel[2], stride[2], padding[2], dilation[2];
    int32_t groups;
} snn_shape;

/* The window whose tap `tap` lies at `position`, or -1. */
static inline int32_t snn_window(const snn_shape *g, int axis, int32_t position, int32_t tap)
{
    const int32_t start = position + g->padding[axis] - tap * g->dilation[axis];
    const int32_t window = start / g->stride[axis];
    if (start < 0 || start % g->stride[axis] != 0)
        return -1;
    return window < (axis == 0 ? g->rows : g->columns) ? window : -1;
}
