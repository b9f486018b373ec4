void vu_fence(void);
