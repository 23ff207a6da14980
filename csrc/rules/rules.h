// The table of algorithms. Adding one here gives it its loops, its torch op and its fake kernel.
#pragma once

#include "adabelief.h"
#include "adadelta.h"
#include "adagrad.h"
#include "adam.h"
#include "adamax.h"
#include "adan.h"
#include "adopt.h"
#include "asgd.h"
#include "ema.h"
#include "lamb.h"
#include "laprop.h"
#include "lars.h"
#include "lion.h"
#include "momentum.h"
#include "nadam.h"
#include "novograd.h"
#include "radam.h"
#include "rmsprop.h"
#include "rprop.h"
#include "sgd.h"

namespace onepass {

template <class... Rule>
struct RuleList {};

using Rules =
    RuleList<SGD, Momentum, Adagrad, RMSprop, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam, Rprop,
             ASGD, LaProp, AdaBelief, Adan, Lion, ADOPT, LARS, NovoGrad, LAMB, EMA>;

}  // namespace onepass
