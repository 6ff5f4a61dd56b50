
/* Adds value * weight over `count` channels: two weights a byte, each plus 8, the first half of the
   channels in the low halves of the bytes. */
static void snn_add_nibbles(const unsigned char *restrict w, int32_t value, int32_t count,
                            int32_t *restrict sum)
{
    const int32_t half = (count + 1) / 2;
    int32_t i;
    if (value == 1) {
        for (i = 0; i < half; i++)
            sum[i] += (w[i] & 15) - 8;
        for (i = 0; i < count - half; i++)
            sum[half + i] += (w[i] >> 4) - 8;
        return;
    }
    for (i = 0; i < half; i++)
        sum[i] += value * ((w[i] & 15) - 8);
    for (i = 0; i < count - half; i++)
        sum[half + i] += value * ((w[i] >> 4) - 8);
}
