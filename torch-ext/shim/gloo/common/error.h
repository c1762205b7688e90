// Empty: nothing of it is needed. See ../context.h for why this directory exists.
#pragma once
