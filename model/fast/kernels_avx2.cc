#define SAB_ISA avx2
#include "model/fast/kernels.h"
