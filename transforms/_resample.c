/* Antialiased resampling of uint8[H, W, 3], bit for bit what Pillow's Image.resize returns, several times as fast.

The definition is Pillow's: a separable filter that is stretched by the scale when an image shrinks, its weights
normalised per output pixel and rounded to 22 bits of fraction, rows first and then columns, each pass rounded to
uint8. So every result is a sum of integers, in any order the same, and can be computed in vectors.

Across a row, the weights change with every output pixel; therefore sixteen rows are interleaved, pixel by pixel, and
one weight meets 48 samples that lie side by side. Down the columns they lie side by side anyway.
*/

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHANNELS 3
#define FRACTION_BITS 22
#define ROWS 16
#define LANES (ROWS * CHANNELS)
#define WIDE 64
#define PI 3.14159265358979323846

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
/* The best instructions of the machine it runs on, not of the one it was compiled on. */
#define VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORISED
#endif

typedef struct {
    int first;  /* first source pixel */
    int count;  /* how many source pixels */
} span;

typedef struct {
    int stride;       /* weights kept for an output pixel */
    span *spans;      /* [size] */
    int32_t *weights; /* [size, stride], times 2**FRACTION_BITS */
} plan;

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double triangle(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Keys' cubic convolution with a = -0.5. */
static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    }
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

static double sinc(double x) {
    if (x == 0.0) {
        return 1.0;
    }
    x *= PI;
    return sin(x) / x;
}

static double lanczos3(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

/* A part of an image, with fractions of pixels: Pillow's box. */
typedef struct {
    float left, top, right, bottom;
} part;

typedef struct {
    const char *name;
    double (*weight)(double);
    double support;
} filter;

static const filter FILTERS[] = {
    {"box", box, 0.5}, {"bilinear", triangle, 1.0}, {"bicubic", cubic, 2.0}, {"lanczos", lanczos3, 3.0}};

static void forget(plan *made) {
    free(made->spans);
    free(made->weights);
}

/* Which of `from` source pixels make each of `size` output pixels out of the part from `begin` to `end`, and how much of
   each. Floats, as Pillow has them: the difference, too, is rounded to one. Returns 0 where there is no memory. */
static int make_plan(plan *made, int from, float begin, float end, int size, const filter *kind) {
    double scale = (double)(end - begin) / size;
    double stretch = scale < 1.0 ? 1.0 : scale;
    double support = kind->support * stretch;
    double *exact;
    made->stride = (int)ceil(support) * 2 + 1;
    made->spans = malloc((size_t)size * sizeof(span));
    made->weights = malloc((size_t)size * (size_t)made->stride * sizeof(int32_t));
    exact = malloc((size_t)made->stride * sizeof(double));
    if (!made->spans || !made->weights || !exact) {
        forget(made);
        free(exact);
        return 0;
    }
    for (int at = 0; at < size; at++) {
        double centre = begin + (at + 0.5) * scale, inverse = 1.0 / stretch, sum = 0.0;
        int first = (int)(centre - support + 0.5), last = (int)(centre + support + 0.5);
        int32_t *weights = made->weights + (size_t)at * made->stride;
        first = first < 0 ? 0 : first;
        last = last > from ? from : last;
        made->spans[at].first = first;
        made->spans[at].count = last - first;
        for (int i = 0; i < last - first; i++) {
            exact[i] = kind->weight((i + first - centre + 0.5) * inverse);
            sum += exact[i];
        }
        for (int i = 0; i < last - first; i++) {
            double weight = (sum != 0.0 ? exact[i] / sum : exact[i]) * (1 << FRACTION_BITS);
            weights[i] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
    }
    free(exact);
    return 1;
}

#define HALF (1 << (FRACTION_BITS - 1))

/* Plain loops of a fixed length: every compiler makes vectors of them. */
static inline __attribute__((always_inline)) void start(int32_t *sums, int lanes) {
    for (int lane = 0; lane < lanes; lane++) {
        sums[lane] = HALF;
    }
}

static inline __attribute__((always_inline)) void add(int32_t *sums, const uint8_t *samples, int32_t weight,
                                                      int lanes) {
    for (int lane = 0; lane < lanes; lane++) {
        sums[lane] += samples[lane] * weight;
    }
}

static inline __attribute__((always_inline)) void finish(const int32_t *sums, uint8_t *samples, int lanes) {
    for (int lane = 0; lane < lanes; lane++) {
        int32_t sum = sums[lane] >> FRACTION_BITS;
        sum = sum < 0 ? 0 : sum;
        samples[lane] = (uint8_t)(sum > 255 ? 255 : sum);
    }
}

/* Resample rows: source[height, *, 3] -> target[height, width, 3]; block has room for the source's width times LANES,
   and 16 bytes. */
VECTORISED
static void across(const uint8_t *source, Py_ssize_t source_stride, int source_width, int height, uint8_t *target,
                   int width, const plan *how, uint8_t *block) {
    for (int top = 0; top < height; top += ROWS) {
        int rows = height - top < ROWS ? height - top : ROWS;
        for (int row = 0; row < rows; row++) {
            const uint8_t *from = source + (top + row) * source_stride;
            uint8_t *to = block + row * CHANNELS;
            for (int x = 0; x < source_width; x++, from += CHANNELS, to += LANES) {
                memcpy(to, from, CHANNELS);
            }
        }
        for (int x = 0; x < width; x++) {
            const int32_t *weights = how->weights + (size_t)x * how->stride;
            const uint8_t *from = block + (size_t)how->spans[x].first * LANES;
            int32_t sums[LANES];
            uint8_t out[LANES];
            start(sums, LANES);
            for (int i = 0; i < how->spans[x].count; i++, from += LANES) {
                add(sums, from, weights[i], LANES);
            }
            finish(sums, out, LANES);
            for (int row = 0; row < rows; row++) {
                memcpy(target + ((size_t)(top + row) * width + x) * CHANNELS, out + row * CHANNELS, CHANNELS);
            }
        }
    }
}

/* Resample columns: source[*, samples] -> target[height, samples]. */
VECTORISED
static void down(const uint8_t *source, Py_ssize_t source_stride, size_t samples, uint8_t *target, int height,
                 const plan *how) {
    for (int y = 0; y < height; y++, target += samples) {
        const int32_t *weights = how->weights + (size_t)y * how->stride;
        const uint8_t *first = source + how->spans[y].first * source_stride;
        int count = how->spans[y].count;
        size_t x = 0;
        for (; x + WIDE <= samples; x += WIDE) {
            const uint8_t *from = first + x;
            int32_t sums[WIDE];
            start(sums, WIDE);
            for (int i = 0; i < count; i++, from += source_stride) {
                add(sums, from, weights[i], WIDE);
            }
            finish(sums, target + x, WIDE);
        }
        for (; x < samples; x++) {
            const uint8_t *from = first + x;
            int32_t sum = HALF;
            for (int i = 0; i < count; i++, from += source_stride) {
                sum += *from * weights[i];
            }
            sum >>= FRACTION_BITS;
            target[x] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
        }
    }
}

static int resample(const uint8_t *source, Py_ssize_t stride, int source_height, int source_width, part from,
                    uint8_t *target, int height, int width, const filter *kind) {
    plan rows = {0}, columns = {0};
    uint8_t *between = NULL, *block = NULL;
    int done = 0;
    int horizontal = source_width != width || from.left != 0 || from.right != source_width;
    int vertical = source_height != height || from.top != 0 || from.bottom != source_height;
    if (horizontal) {
        uint8_t *to = target;
        if (vertical) {
            to = between = malloc((size_t)source_height * (size_t)width * CHANNELS);
        }
        block = calloc((size_t)source_width * LANES + 16, 1);
        if (!to || !block || !make_plan(&rows, source_width, from.left, from.right, width, kind)) {
            goto end;
        }
        across(source, stride, source_width, source_height, to, width, &rows, block);
        source = to;
        stride = (Py_ssize_t)width * CHANNELS;
    }
    if (vertical) {
        if (!make_plan(&columns, source_height, from.top, from.bottom, height, kind)) {
            goto end;
        }
        down(source, stride, (size_t)width * CHANNELS, target, height, &columns);
    } else if (!horizontal) {
        for (int y = 0; y < height; y++) {
            memcpy(target + (size_t)y * width * CHANNELS, source + y * stride, (size_t)width * CHANNELS);
        }
    }
    done = 1;
end:
    forget(&rows);
    forget(&columns);
    free(between);
    free(block);
    return done;
}

static int check(const Py_buffer *view, const char *name, int contiguous) {
    if (view->itemsize != 1 || view->ndim != 3 || view->shape[2] != CHANNELS || view->shape[0] < 1 ||
        view->shape[1] < 1 || view->shape[0] > 1 << 24 || view->shape[1] > 1 << 24) {
        PyErr_Format(PyExc_ValueError, "%s must be uint8[H, W, 3] of 1 to 16777216 rows and columns", name);
        return 0;
    }
    if (view->strides[2] != 1 || view->strides[1] != CHANNELS ||
        (contiguous && view->strides[0] != view->shape[1] * CHANNELS)) {
        PyErr_Format(PyExc_ValueError, "the samples of a row of %s must lie side by side%s", name,
                     contiguous ? ", and its rows as well" : "");
        return 0;
    }
    return 1;
}

static int check_part(part *from, const Py_buffer *source, int whole) {
    if (whole) {
        from->right = (float)source->shape[1];
        from->bottom = (float)source->shape[0];
    }
    /* Written so that nan fails, too. */
    if (from->left >= 0 && from->top >= 0 && from->left < from->right && from->top < from->bottom &&
        from->right <= source->shape[1] && from->bottom <= source->shape[0]) {
        return 1;
    }
    PyErr_SetString(PyExc_ValueError, "the part must have a size and lie inside source");
    return 0;
}

static PyObject *resample_py(PyObject *module, PyObject *arguments) {
    PyObject *source_object, *target_object, *result = NULL;
    const char *name;
    const filter *kind = NULL;
    part from = {0, 0, 0, 0};
    Py_buffer source, target;
    int done;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOs|(ffff)", &source_object, &target_object, &name, &from.left, &from.top,
                          &from.right, &from.bottom)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof FILTERS / sizeof FILTERS[0]; i++) {
        if (strcmp(FILTERS[i].name, name) == 0) {
            kind = &FILTERS[i];
        }
    }
    if (!kind) {
        return PyErr_Format(PyExc_ValueError, "filter must be box, bilinear, bicubic or lanczos, got %s", name);
    }
    if (PyObject_GetBuffer(source_object, &source, PyBUF_STRIDES) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(target_object, &target, PyBUF_STRIDES | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&source);
        return NULL;
    }
    if (check(&source, "source", 0) && check(&target, "target", 1) &&
        check_part(&from, &source, PyTuple_GET_SIZE(arguments) == 3)) {
        Py_BEGIN_ALLOW_THREADS;
        done = resample(source.buf, source.strides[0], (int)source.shape[0], (int)source.shape[1], from, target.buf,
                        (int)target.shape[0], (int)target.shape[1], kind);
        Py_END_ALLOW_THREADS;
        if (done) {
            result = Py_NewRef(Py_None);
        } else {
            PyErr_NoMemory();
        }
    }
    PyBuffer_Release(&source);
    PyBuffer_Release(&target);
    return result;
}

static PyMethodDef METHODS[] = {
    {"resample", resample_py, METH_VARARGS,
     "resample(source, target, filter[, part])\n\nFill target, uint8[h, w, 3], with source, uint8[H, W, 3], or its "
     "part (left, top, right, bottom), in fractions of pixels, resampled by box, bilinear, bicubic or lanczos.\n\n"
     "Raises:\n    ValueError: Another shape, layout or filter, or a part that lies outside.\n    "
     "MemoryError: Its working memory cannot be had."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_resample", "Antialiased resampling in vectors.", -1,
                                    METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resample(void) { return PyModule_Create(&MODULE); }
